"""Applications under test, each started once in the process whose tests share it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.applications import Playground, Service
from tests.cluster import scripted_config, sums, write_rows

#: Files that share a large application with others, which one process starts for all of them. Every
#: process has a Ray cluster, and a cluster one gateway, so what stops the shared service for one of
#: its own goes with it.
SHARED = {
    "test_client.py": "service",
    "test_live_weights.py": "service",
    "test_nemo_rl.py": "service",
    "test_recorded.py": "service",
    "test_serve.py": "service",
    "test_sessions.py": "service",
    "test_weights_page.py": "service",
    "test_agents.py": "playground",
    "test_collect.py": "playground",
    "test_compat.py": "playground",
    "test_export.py": "playground",
    "test_judges.py": "playground",
    "test_large_and_deadly.py": "playground",
    "test_object_stores.py": "playground",
    "test_observability.py": "playground",
    "test_observability_page.py": "playground",
    "test_quotas.py": "playground",
    "test_remote_policies.py": "playground",
    "test_reverify.py": "playground",
}


class ByApplication(LoadFileScheduling):
    """Files that share an application are run by the same process."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return SHARED.get(Path(file).name, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByApplication:
    return ByApplication(config, log)


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
