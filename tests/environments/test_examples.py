"""The example rows of every environment that comes along are legal tasks of it."""

from pathlib import Path

import pytest

from gym_ray.prepare import prepare

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "environments").glob("*/config.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.parent.name)
def test_declared_examples_are_prepared_whole(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # Where the configs' paths are from.
    report = prepare(config, tmp_path / "out", splits=("example",), quiet=True)

    assert report.rejections == []
    rows = (config.parent / "data" / "example.jsonl").read_text().splitlines()
    written = (tmp_path / "out" / "example.jsonl").read_text().splitlines()
    for row, text in zip(rows, written, strict=True):  # At most an agent_ref is added at the end.
        assert text == row or text.startswith(row[:-1] + ', "agent_ref": ')
