"""Docs that are made from code are up to date, and name only what exists."""

import runpy
from pathlib import Path

from gym_ray.rows import SCHEMA

ROOT = Path(__file__).parents[2]


def test_configuration_page_is_what_the_code_says() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "write_docs.py"))["configuration"]()
    assert (ROOT / "docs" / "configuration.md").read_text() == page, "run scripts/write_docs.py"


def test_dataset_page_names_every_column() -> None:
    page = (ROOT / "docs" / "dataset.md").read_text()
    assert [name for name in SCHEMA.names if f"`{name}`" not in page] == []


def test_readme_names_only_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    names = (
        "docs/dataset.md",
        "docs/configuration.md",
        "scripts/quickstart.sh",
        "scripts/test.sh",
        "deployments/laptop-cpu.yaml",
        "deployments/single-gpu.yaml",
    )
    for name in names:
        assert name in text
        assert (ROOT / name).exists()


def test_every_deployment_is_a_valid_config() -> None:
    from gym_ray.config import load_config

    deployments = sorted((ROOT / "deployments").glob("*.yaml"))
    configs = [*deployments, *sorted((ROOT / "environments").glob("*/config.yaml"))]
    assert len(configs) >= 4
    for path in configs:
        load_config(path)
