"""`gym-ray hub push`, by the real client, against a Hub on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_folders import SHARDS, contents, finished_run, run, started, wait_until
from tests.hub_server import READER, HubServer

REPO = "acme/sums"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _fresh(hub: HubServer) -> None:
    hub.mend()
    hub.repos.clear()
    hub.stored.clear()
    hub.asked.clear()


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    return finished_run(tmp_path / "demo")


def test_a_pushed_run_comes_back_byte_for_byte(hub: HubServer, tmp_path: Path, demo: Path) -> None:
    code, said, errors = run(hub, tmp_path, "hub", "push", demo, REPO, "--license", "mit")
    assert code == 0, errors
    assert said.startswith(f"{SHARDS + 4} files sent")

    code, _, errors = run(hub, tmp_path, "hub", "pull", REPO, "--output", "back", token=None)
    assert code == 0, errors
    back = contents(tmp_path / "back")
    assert back.pop(".gitattributes")
    card = back.pop("README.md").decode()
    assert back == contents(demo)
    assert "license: mit" in card
    assert "| rollouts | 8 |" in card


def test_what_is_there_is_not_sent_again(hub: HubServer, tmp_path: Path, demo: Path) -> None:
    assert run(hub, tmp_path, "hub", "push", demo, REPO)[0] == 0
    commits = len(hub.repos[REPO].commits)
    (demo / "summary.json").write_text((demo / "summary.json").read_text() + "\n")
    hub.asked.clear()

    code, said, _ = run(hub, tmp_path, "hub", "push", demo, REPO, "--json")
    assert code == 0
    assert json.loads(said)["sent"] == ["summary.json"]
    assert hub.count("PUT", "*") == 0
    code, said, _ = run(hub, tmp_path, "hub", "push", demo, REPO)
    assert said.startswith(f"0 files sent, 0 bytes; {SHARDS + 4} were there already")
    assert len(hub.repos[REPO].commits) == commits + 1


def test_a_killed_push_goes_on_with_what_is_missing(
    hub: HubServer, tmp_path: Path, demo: Path
) -> None:
    held = hub.break_next("PUT", "/upload/*", -1, skip=2, times=99)
    killed = started(hub, tmp_path, "hub", "push", demo, REPO)
    assert held.hit.wait(60)
    wait_until(lambda: len(hub.stored) == 2)
    killed.kill()
    killed.wait()
    assert set(hub.files(REPO)) == {".gitattributes"}

    hub.mend()
    hub.asked.clear()
    assert run(hub, tmp_path, "hub", "push", demo, REPO)[0] == 0
    large = SHARDS + 1
    assert hub.count("PUT", "/upload/*") == large - 2
    assert contents(demo).items() <= hub.files(REPO).items()


def test_faults_that_pass_are_got_over(hub: HubServer, tmp_path: Path, demo: Path) -> None:
    hub.break_next("PUT", "/upload/*")
    hub.break_next("POST", "*/preupload/*", 503)
    hub.break_next("POST", "*/commit/*", 503)
    code, _, errors = run(hub, tmp_path, "hub", "push", demo, REPO)
    assert code == 0, errors
    assert contents(demo).items() <= hub.files(REPO).items()


def test_a_commit_whose_answer_was_lost_is_not_made_twice(
    hub: HubServer, tmp_path: Path, demo: Path
) -> None:
    hub.break_next("POST", "*/commit/*", is_done_first=True)
    code, _, errors = run(hub, tmp_path, "hub", "push", demo, REPO)
    assert code == 0, errors
    assert len(hub.repos[REPO].commits) == 2
    assert hub.count("POST", "*/commit/*") == 1


def test_a_dry_run_asks_nobody(hub: HubServer, tmp_path: Path, demo: Path) -> None:
    command = ("hub", "push", demo, REPO, "--dry-run")
    code, said, errors = run(hub, tmp_path, *command, token=None)
    assert code == 0, errors
    assert hub.asked == []
    assert "rollouts/shard-00000.parquet" in said
    assert "path: rollouts/*.parquet" in said
    code, said, _ = run(hub, tmp_path, *command, "--json", token=None)
    report = json.loads(said)
    assert report["files"]["run.yaml"] == (demo / "run.yaml").stat().st_size
    assert report["sent"] == []


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "HF_TOKEN is not set"),
        ("hf_nobodynobodynobody", "does not accept the token in HF_TOKEN (401)"),
        (READER, "may not do that with acme/sums (403)"),
        ("hf_two words", "HF_TOKEN holds no token"),
    ],
)
def test_a_token_that_is_no_good_is_told_and_not_shown(
    hub: HubServer, tmp_path: Path, demo: Path, token: str | None, message: str
) -> None:
    code, _, errors = run(hub, tmp_path, "hub", "push", demo, REPO, token=token)
    assert code == 2
    assert message in errors
    assert hub.stored == {}


def test_there_is_no_option_for_a_token(hub: HubServer, tmp_path: Path, demo: Path) -> None:
    code, _, errors = run(hub, tmp_path, "hub", "push", demo, REPO, "--token", "hf_x")
    assert code == 2
    assert "No such option" in errors


def test_a_saved_login_is_not_used(hub: HubServer, tmp_path: Path, demo: Path) -> None:
    (tmp_path / "hf-home").mkdir()
    (tmp_path / "hf-home" / "token").write_text("hf_savedsavedsavedsaved")
    hub.add(REPO, {"a.txt": b"a"})
    assert run(hub, tmp_path, "hub", "pull", REPO, "--output", "o", token=None)[0] == 0
    assert {asked.token for asked in hub.asked} == {None}


def test_a_hub_out_of_reach_is_told(tmp_path: Path, demo: Path) -> None:
    code, _, errors = run(None, tmp_path, "hub", "push", demo, REPO)
    assert code == 1
    assert "http://127.0.0.1:1 cannot be reached" in errors
    assert "re-issue the same command" in errors


def test_data_of_another_run_is_not_mixed_in(hub: HubServer, tmp_path: Path, demo: Path) -> None:
    hub.add(REPO, {"rollouts/shard-old.parquet": b"old", "notes.txt": b"keep"})
    code, _, errors = run(hub, tmp_path, "hub", "push", demo, REPO)
    assert code == 2
    assert "has data that the folder does not (rollouts/shard-old.parquet)" in errors

    code, said, _ = run(hub, tmp_path, "hub", "push", demo, REPO, "--replace")
    assert code == 0
    assert "removed: rollouts/shard-old.parquet" in said
    assert "rollouts/shard-old.parquet" not in hub.files(REPO)
    assert hub.files(REPO)["notes.txt"] == b"keep"


def test_private_is_private_and_a_branch_is_a_branch(
    hub: HubServer, tmp_path: Path, demo: Path
) -> None:
    command = ("hub", "push", demo, REPO, "--private", "--revision", "trial")
    assert run(hub, tmp_path, *command)[0] == 0
    assert hub.repos[REPO].private
    assert set(hub.files(REPO)) == {".gitattributes"}
    assert contents(demo).items() <= hub.files(REPO, "trial").items()

    hub.add("acme/open", {"a.txt": b"a"})
    code, _, errors = run(hub, tmp_path, "hub", "push", demo, "acme/open", "--private")
    assert code == 2
    assert "is public, and --private does not change that" in errors
