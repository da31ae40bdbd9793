from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.applications import Playground, Service
from tests.cluster import scripted_config, sums, write_rows

#: The application a module shares with others, so that one process runs them all (pytest-xdist's
#: `--dist loadgroup`); a module that shares none is a group of its own.
GROUPS = ("requests", "playground", "service")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    shared: dict[str, str] = {}
    for item in items:
        used = getattr(item, "fixturenames", ())
        group = next((group for group in GROUPS if group in used), None)
        if group is not None:
            shared.setdefault(item.path.name, group)
    for item in items:
        if item.path.parent == Path(__file__).parent:
            group = shared.get(item.path.name, item.path.stem)
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def requests(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Request log of the application of the arithmetic environment, which is held while tests run.

    A `scripted_config` with this log is a config of it.
    """
    from gym_ray.config.load import load_config
    from gym_ray.serving.application import Application

    folder = tmp_path_factory.mktemp("application")
    rows = write_rows(folder / "tasks.jsonl", sums(1, folder))
    config = load_config(scripted_config(folder, rows, folder / "requests"))
    application = Application.deploy(config, print)
    yield folder / "requests"
    application.close()


@pytest.fixture(scope="session")
def playground(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    """The application of many environments, which is held while tests run."""
    from gym_ray.config.load import load_config
    from gym_ray.serving.application import Application

    folder = tmp_path_factory.mktemp("playground")
    found = Playground(folder)
    application = Application.deploy(load_config(found.config(folder, [])), print)
    yield found
    application.close()


@pytest.fixture(scope="session")
def service(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service most tests of gateways share, which those with one of their own stop."""
    found = Service(cluster, tmp_path_factory.mktemp("service"))
    yield found
    found.stop()


@pytest.fixture
def url(service: Service) -> str:
    """Base URL of the service."""
    return service.start()
