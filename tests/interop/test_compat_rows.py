"""`compat ng_prepare_data` on NeMo Gym's own rows gives its own metrics (contracts.md 1.8)."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from gym_ray.compat.prepare_data import demand, prepare_data
from tests.interop.test_nemo_gym_rows import DATA


def test_string_match_has_the_metrics_of_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(DATA / "string_match.example.jsonl", "example.jsonl")
    dataset = {"name": "example", "type": "example", "jsonl_fpath": "example.jsonl"}
    agent = {"simple_agent": {"entrypoint": "app.py", "datasets": [dataset]}}
    tree = {"string_match_simple_agent": {"responses_api_agents": agent}}
    Path("gym.yaml").write_text(yaml.safe_dump(tree))
    words = {
        "Total # non-null values": 5, "Average": 25.2, "Min": 21.0, "Max": 30.0,
        "Standard deviation": 3.27,
    }  # fmt: skip
    # What NeMo Gym left beside its rows is no conflict with what we find.
    theirs = {
        "name": "example",
        "license": None,
        "Number of examples": 5,
        "Json-dumped number of words (proxy for token count)": words,
        "expected_answer": {"unique_count": 5, "total_count": 5},
        "extraction_mode": {"unique_count": 3, "total_count": 5},
    }
    Path("example_metrics.json").write_text(json.dumps(theirs))

    arguments = ["+config_paths=[gym.yaml]", "+mode=example_validation", "+output_dirpath=out"]
    demand(prepare_data(arguments, quiet=True))

    metrics = json.loads(Path("out/example_metrics.json").read_text())
    assert metrics["Json-dumped number of words (proxy for token count)"] == words
    rows = [json.loads(line) for line in Path("example_prepare.jsonl").read_text().splitlines()]
    assert {row["agent_ref"]["name"] for row in rows} == {"string_match_simple_agent"}
