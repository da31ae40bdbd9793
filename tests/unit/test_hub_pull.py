"""`gym-ray hub pull`, by the real client, against a Hub on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.hub_folders import contents, run, started, wait_until
from tests.hub_server import HubServer

REPO = "acme/questions"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _fresh(hub: HubServer) -> None:
    hub.mend()
    hub.repos.clear()
    hub.asked.clear()


def parquet(table: dict[str, list[object]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink)
    return bytes(sink.getvalue())


def many(count: int = 12) -> dict[str, bytes]:
    return {f"data/part-{n:02d}.jsonl": b"%d\n" % n * 5000 for n in range(count)}


def test_a_killed_pull_fetches_what_is_missing(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, many())
    held = hub.break_next("GET", "/storage/*", -1, skip=3, times=99)
    killed = started(hub, tmp_path, "hub", "pull", REPO, "--output", "o")
    assert held.hit.wait(60)
    unfinished = tmp_path / "o.unfinished" / "data"
    wait_until(lambda: unfinished.is_dir() and len(list(unfinished.iterdir())) == 3)
    killed.kill()
    killed.wait()
    assert not (tmp_path / "o").exists()

    hub.mend()
    hub.asked.clear()
    code, said, errors = run(hub, tmp_path, "hub", "pull", REPO, "--output", "o")
    assert code == 0, errors
    assert said.startswith("9 files fetched")
    assert hub.count("GET", "/storage/*") == 9
    assert contents(tmp_path / "o") == many()
    assert not (tmp_path / "o.unfinished").exists()


def test_a_download_that_breaks_off_goes_on_where_it_was(hub: HubServer, tmp_path: Path) -> None:
    files = {"data/all.parquet": bytes(range(256)) * 80_000}
    hub.add(REPO, files)
    # huggingface_hub writes 10 MiB at a time.
    hub.break_next("GET", "/storage/*", after_bytes=12 << 20)
    code, _, errors = run(hub, tmp_path, "hub", "pull", REPO, "--output", "o")
    assert code == 0, errors
    assert contents(tmp_path / "o") == files
    ranges = [asked.range for asked in hub.asked if asked.path.startswith("/storage/")]
    assert ranges == [None, f"bytes={10 << 20}-"]


def test_the_token_goes_to_the_hub_alone(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, many(1), private=True)
    assert run(hub, tmp_path, "hub", "pull", REPO, "--output", "o")[0] == 0
    for asked in hub.asked:
        assert (asked.token is None) == asked.path.startswith("/storage/")


def test_a_finished_pull_is_checked_and_never_overwritten(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, many(2))
    assert run(hub, tmp_path, "hub", "pull", REPO, "--output", "o")[0] == 0
    code, said, _ = run(hub, tmp_path, "hub", "pull", REPO, "--output", "o")
    assert code == 0
    assert said.startswith("0 files fetched, 0 bytes; 2 were here already")

    mine = tmp_path / "o" / "data" / "part-01.jsonl"
    mine.write_text("mine")
    code, _, errors = run(hub, tmp_path, "hub", "pull", REPO, "--output", "o")
    assert code == 2
    assert "holds something else than this revision (data/part-01.jsonl is not the same)" in errors
    assert mine.read_text() == "mine"


def test_an_earlier_revision_is_had_by_its_commit(hub: HubServer, tmp_path: Path) -> None:
    old = hub.add(REPO, {"a.txt": b"old"})
    hub.add(REPO, {"a.txt": b"new"})
    command = ("hub", "pull", REPO, "--output", "o", "--revision", old, "--json")
    code, said, _ = run(hub, tmp_path, *command)
    assert code == 0
    assert json.loads(said)["commit"] == old
    assert contents(tmp_path / "o") == {"a.txt": b"old"}


def test_questions_of_others_become_rows_that_prepare_reads(hub: HubServer, tmp_path: Path) -> None:
    train = parquet({"question": ["1 + 1?", "2 + 2?"], "answer": ["2", None]})
    hub.add(REPO, {"main/train-0.parquet": train, "main/test-0.parquet": train, "x.md": b"x"})
    command = ("hub", "pull", REPO, "--output", "o", "--include", "*/train-*", "--jsonl")
    code, said, errors = run(hub, tmp_path, *command, token=None)
    assert code == 0, errors
    assert "converted: main/train-0.jsonl" in said
    assert set(contents(tmp_path / "o")) == {"main/train-0.parquet", "main/train-0.jsonl"}
    rows = (tmp_path / "o" / "main" / "train-0.jsonl").read_text().splitlines()
    assert [json.loads(row) for row in rows] == [
        {"question": "1 + 1?", "answer": "2"},
        {"question": "2 + 2?"},
    ]
    assert run(hub, tmp_path, *command, token=None)[0] == 0


def test_a_column_that_json_cannot_hold_is_named(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, {"train.parquet": parquet({"image": [b"\xff"]})})
    code, _, errors = run(hub, tmp_path, "hub", "pull", REPO, "--output", "o", "--jsonl")
    assert code == 2
    assert "column 'image' is binary, which JSON cannot hold" in errors


@pytest.mark.parametrize(
    ("arguments", "token", "message"),
    [
        (["acme/none"], None, "there is no such dataset that anybody may see"),
        (["acme/hidden"], None, "there is no such dataset that anybody may see"),
        ([REPO, "--revision", "v9"], None, "has no revision 'v9'"),
        ([REPO, "--include", "*.csv"], None, "no file that --include *.csv matches; it has a.txt"),
        ([REPO], "hf_nobodynobodynobody", "does not accept the token in HF_TOKEN (401)"),
        (["questions"], None, "is no dataset's name; write OWNER/NAME"),
    ],
)
def test_what_is_not_to_be_had_is_told(
    hub: HubServer, tmp_path: Path, arguments: list[str], token: str | None, message: str
) -> None:
    hub.add(REPO, {"a.txt": b"a"})
    hub.add("acme/hidden", {"a.txt": b"a"}, private=True)
    code, _, errors = run(hub, tmp_path, "hub", "pull", *arguments, "--output", "o", token=token)
    assert code == 2
    assert message in errors
    assert not (tmp_path / "o").exists()


def test_a_hub_that_breaks_down_can_be_asked_again(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, {"a.txt": b"a"})
    hub.break_next("GET", "/datasets/*/resolve/*", 500, times=99)
    code, _, errors = run(hub, tmp_path, "hub", "pull", REPO, "--output", "o")
    assert code == 1
    assert "answered 500" in errors
    assert not (tmp_path / "o").exists()
    hub.mend()
    assert run(hub, tmp_path, "hub", "pull", REPO, "--output", "o")[0] == 0
