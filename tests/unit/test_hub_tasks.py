"""Task files on the Hub, read by `hf://` URLs without a pull."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_folders import run
from tests.hub_server import HubServer

TASKS = [
    {"responses_create_params": {"input": f"{n} + {n} = ?"}, "expected_answer": str(2 * n)}
    for n in range(3)
]


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        lines = "".join(json.dumps(task) + "\n" for task in TASKS).encode()
        server.add("acme/sums", {"data/train-0.jsonl": lines, "data/train-1.jsonl": lines})
        yield server


def test_prepare_reads_a_glob_of_the_hub(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "math.yaml").write_text('{"environments": {"math": {}}}')

    code, said, errors = run(
        hub, tmp_path, "prepare", "math.yaml", "--output", "o", "--json",
        "--train", "hf://datasets/acme/sums/data/*.jsonl",
    )  # fmt: skip

    assert code == 0, errors + said
    rows = [json.loads(line) for line in (tmp_path / "o" / "train.jsonl").read_text().splitlines()]
    assert [row["expected_answer"] for row in rows] == ["0", "2", "4"] * 2


def test_what_is_not_there_is_said(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "math.yaml").write_text('{"environments": {"math": {}}}')

    code, _, errors = run(
        hub, tmp_path, "prepare", "math.yaml", "--output", "o",
        "--train", "hf://datasets/acme/sums/data/none.jsonl",
    )  # fmt: skip

    assert code == 2
    assert "none.jsonl': no such file" in errors
