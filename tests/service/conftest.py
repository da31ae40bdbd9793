from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import scripted_config, sums, write_rows


@pytest.fixture(scope="session")
def requests(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Request log of the one application most tests share, which is held while they run."""
    from gym_ray.config.load import load_config
    from gym_ray.serving.application import Application

    folder = tmp_path_factory.mktemp("application")
    rows = write_rows(folder / "tasks.jsonl", sums(1, folder))
    config = load_config(scripted_config(folder, rows, folder / "requests"))
    application = Application.deploy(config, print)
    yield folder / "requests"
    application.close()
