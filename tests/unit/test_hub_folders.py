"""What may be published of a folder, and what its card says."""

import fcntl
from pathlib import Path
from typing import Any

import pytest
import yaml

from gym_ray.config.secret_values import secret_settings
from gym_ray.errors import ConfigError
from gym_ray.hub import pull, push
from gym_ray.hub.cards import prepared_card
from gym_ray.store.schema import SCHEMA
from tests.exports import run_command
from tests.hub_folders import finished_run, task_files
from tests.stored import stored_run, sum_rollout

#: Columns of a type that `datasets` has not.
MAPS = ("reward_components", "metrics")


def front_matter(card: str) -> dict[str, Any]:
    front = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(front, dict)
    return front


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    return finished_run(tmp_path / "demo")


def test_a_run_in_segments_is_not_published(tmp_path: Path) -> None:
    run = stored_run(tmp_path / "run", [sum_rollout(0, reply="0")], is_complete=False)
    with pytest.raises(ConfigError, match=r"not finished \(1 segments .* re-issue the command"):
        push(run, "o/n", dry_run=True)


def test_a_run_that_lacks_rollouts_is_not_published(demo: Path) -> None:
    next((demo / "rollouts").iterdir()).unlink()
    with pytest.raises(ConfigError, match="holds 6 of 8 rollouts"):
        push(demo, "o/n", dry_run=True)


def test_a_run_that_is_being_written_is_not_published(demo: Path) -> None:
    with open(demo / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another gym-ray process is writing there"):
            push(demo, "o/n", dry_run=True)


def test_rollouts_of_serve_are_to_be_exported(demo: Path) -> None:
    tree = yaml.safe_load((demo / "run.yaml").read_text())
    tree["run"]["kind"] = "serve"
    (demo / "run.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match="make a dataset of them with `gym-ray export`"):
        push(demo, "o/n", dry_run=True)


def test_files_that_are_not_the_datasets_are_not_sent(demo: Path) -> None:
    (demo / "notes.txt").write_text("mine")
    (demo / "rollouts" / "x.parquet.unfinished").write_text("half")
    names = set(push(demo, "o/n", dry_run=True).files)
    shards = {f"rollouts/shard-{n:05d}.parquet" for n in range(4)}
    assert names == {"README.md", "run.yaml", "summary.json", "manifest.parquet", *shards}


def test_a_folder_of_anything_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no dataset of gym-ray"):
        push(tmp_path, "o/n", dry_run=True)
    with pytest.raises(ConfigError, match="no such folder"):
        push(tmp_path / "none", "o/n", dry_run=True)


def test_a_secret_in_the_config_is_named_and_not_shown(demo: Path) -> None:
    tree = yaml.safe_load((demo / "run.yaml").read_text())
    tree["environments"]["arithmetic"]["params"] = {"api_key": "swordfish"}
    (demo / "run.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=r"environments\.arithmetic\.params\.api_key") as refused:
        push(demo, "o/n", dry_run=True)
    assert "swordfish" not in str(refused.value)


def test_secrets_are_found_wherever_a_config_can_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "correct-horse")
    monkeypatch.setenv("MCP_AUTH", "battery-staple")
    tree = {
        "policy": {
            "model": "m",
            "engine_args": {"hf_token": "x", "api_key_env": "JUDGE_KEY", "max_tokens": 4},
        },
        "judges": {"j": {"engine_args": {"base_url": "https://me:pw@host/v1"}}},
        "environments": {
            "e": {
                "params": {"note": "it is correct-horse", "key": "plain", "eos_token": "</s>"},
                "mcp_servers": {
                    "s": {
                        "command": "c",
                        "args": ["--api-key", "abc", "--password=abc", "--verbose", "yes"],
                        "env": {"GITHUB_TOKEN": "abc", "LEVEL": "debug"},
                        "header_variables": {"Authorization": "MCP_AUTH"},
                    },
                    "t": {"url": "http://h", "env": {"A_KEY": "${oc.env:A_KEY}"}},
                },
                "external": {"command": ["run", "battery-staple"]},
            }
        },
        "serve": {"api_key_env": "GYM_RAY_API_KEY"},
    }
    assert secret_settings(tree) == [
        "policy.engine_args.hf_token",
        "judges.j.engine_args.base_url",
        "environments.e.params.note",
        "environments.e.mcp_servers.s.args.1",
        "environments.e.mcp_servers.s.args.2",
        "environments.e.mcp_servers.s.env.GITHUB_TOKEN",
        "environments.e.external.command.1",
    ]


@pytest.mark.parametrize(
    "tree",
    [
        {"sandbox_env": {"OPENAI_API_KEY": "sk-proj-0123456789abcdef"}},
        {"token_env": "hf_0123456789abcdefghij"},
        {"args": ["run", "-e", "GITHUB_TOKEN=opaque"]},
        {"args": ["--api_key=opaque"]},
        {"command": "server --api-key opaque-0"},
        {"password": 31415926},
        {"url": "https://h/x?page=1&api_key=opaque"},
    ],
)
def test_a_secret_is_one_in_whatever_form(tree: dict[str, Any]) -> None:
    assert len(secret_settings({"environments": {"e": {"params": tree}}})) == 1


@pytest.mark.parametrize(
    "tree",
    [
        {"api_key_env": "JUDGE_KEY"},
        {"header_variables": {"Authorization": "MCP_AUTH"}},
        {"args": ["-e", "LEVEL=debug", "--tokens", "5", "a=b"]},
        {"command": "agent --api-key $A_LONG_NAME --eos-token 3 --no-auth-token --port 80"},
        {"max_tokens": 5, "use_token": True, "url": "https://h/x?page=1"},
    ],
)
def test_what_only_names_or_counts_is_none(tree: dict[str, Any]) -> None:
    assert secret_settings({"environments": {"e": {"params": tree}}}) == []


def test_a_run_of_the_tests_holds_no_secret(demo: Path) -> None:
    assert secret_settings(yaml.safe_load((demo / "run.yaml").read_text())) == []


def test_the_card_of_a_run_says_where_its_split_is(demo: Path) -> None:
    card = push(demo, "o/n", dry_run=True, license="mit").card
    front = front_matter(card)
    (config,) = front["configs"]
    assert config["data_files"] == [{"split": "train", "path": "rollouts/*.parquet"}]
    assert config["columns"] == [name for name in SCHEMA.names if name not in MAPS]
    assert (front["tags"], front["license"]) == (["gym-ray", "rollouts"], "mit")
    assert "| mean reward | 1.0000 over 100.0% of the rollouts |" in card
    assert str(demo.parent) not in card


def test_a_card_of_ones_own_is_sent_as_it_is(demo: Path) -> None:
    mine = "---\nconfigs:\n- config_name: a\n  data_files: rollouts/*.parquet\n---\nMine.\n"
    (demo / "README.md").write_text(mine)
    assert push(demo, "o/n", dry_run=True).card == mine
    with pytest.raises(ConfigError, match="write `license: mit` into its front matter"):
        push(demo, "o/n", dry_run=True, license="mit")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("# Mine\n", "has no `configs`"),
        ("---\ntags: [a]\n---\n", "has no `configs`"),
        (
            "---\nconfigs:\n- data_files: data/*.parquet\n---\n",
            r"names data/\*\.parquet, which is not there",
        ),
    ],
)
def test_a_card_that_would_load_nothing_is_refused(demo: Path, card: str, message: str) -> None:
    (demo / "README.md").write_text(card)
    with pytest.raises(ConfigError, match=message):
        push(demo, "o/n", dry_run=True)


def test_prepared_tasks_have_their_splits_and_licenses(tmp_path: Path) -> None:
    config = task_files(tmp_path)
    assert run_command("prepare", config, "--output", tmp_path / "data")[0] == 0
    report = push(tmp_path / "data", "o/n", dry_run=True)
    front = front_matter(report.card)
    assert sorted(front["license"]) == ["mit", "unknown"]
    assert front["configs"] == [
        {
            "config_name": "tasks",
            "data_files": [
                {"split": "validation", "path": "validation.parquet"},
                {"split": "train", "path": "train.parquet"},
            ],
        }
    ]
    assert {"train.jsonl", "train.parquet", "train_metrics.json", "report.json"} < set(report.files)


def test_rows_that_may_not_be_distributed_stay_private(tmp_path: Path) -> None:
    config = task_files(tmp_path)
    license = "NVIDIA Internal Use Only, Do Not Distribute"
    config.write_text(config.read_text().replace("license: TBD", f'license: "{license}"'))
    assert run_command("prepare", config, "--output", tmp_path / "data")[0] == 0
    with pytest.raises(ConfigError, match="Do Not Distribute'; push it with --private"):
        push(tmp_path / "data", "o/n", dry_run=True)
    assert push(tmp_path / "data", "o/n", dry_run=True, private=True).kind == "tasks"


def test_a_prepare_that_wrote_nothing_is_not_published(tmp_path: Path) -> None:
    config = task_files(tmp_path)
    (tmp_path / "t.jsonl").write_text("{}\n")
    assert run_command("prepare", config, "--output", tmp_path / "data")[0] == 1
    with pytest.raises(ConfigError, match=r"wrote no rows there \(1 were rejected\)"):
        push(tmp_path / "data", "o/n", dry_run=True)


@pytest.mark.parametrize("kind", ["rollouts", "export", "export of shards"])
def test_what_was_made_of_rows_that_may_not_be_distributed_stays_private(
    tmp_path: Path, demo: Path, kind: str
) -> None:
    license = "NVIDIA Internal Use Only, Do Not Distribute"
    tree = yaml.safe_load((demo / "run.yaml").read_text())
    tree["environments"]["arithmetic"]["datasets"] = [
        {"name": "sums", "type": "train", "path": "t.jsonl", "license": license}
    ]
    (demo / "run.yaml").write_text(yaml.safe_dump(tree))
    folder = demo
    if kind != "rollouts":
        folder = tmp_path / "exported"
        source = demo / "rollouts" if kind == "export of shards" else demo
        assert run_command("export", "nemo-gym", source, "--output", folder)[0] == 0
    with pytest.raises(ConfigError, match="Do Not Distribute'; push it with --private"):
        push(folder, "o/n", dry_run=True)
    assert push(folder, "o/n", dry_run=True, private=True).kind == kind.split()[0]


def test_an_export_says_nothing_of_where_it_was_made(tmp_path: Path, demo: Path) -> None:
    tree = yaml.safe_load((demo / "run.yaml").read_text())
    tree["run"]["source"] = {"path": str(tmp_path / "earlier"), "rollouts": 8}
    (demo / "run.yaml").write_text(yaml.safe_dump(tree))
    folder = tmp_path / "exported"
    assert run_command("export", "nemo-gym", demo, "--output", folder)[0] == 0
    for name in ("README.md", "export.json"):
        assert str(tmp_path) not in (folder / name).read_text()
    card = push(folder, "o/n", dry_run=True).card
    assert "| source | demo |" in card
    assert '"path": "earlier"' in card
    assert str(tmp_path) not in push(demo, "o/n", dry_run=True).card


def test_of_an_export_only_what_it_wrote_is_sent(tmp_path: Path, demo: Path) -> None:
    folder = tmp_path / "exported"
    assert run_command("export", "sft", demo, "--output", folder)[0] == 0
    (folder / "trajectories").mkdir()
    for name in ("private_notes.jsonl", "train-notes.parquet", "trajectories/mine.json"):
        (folder / name).write_text("mine")
    sent = set(push(folder, "o/n", dry_run=True).files)
    assert sent == {"README.md", "export.json", "train.jsonl", "train-00000.parquet"}


def test_trajectories_in_a_file_each_are_sent(tmp_path: Path, demo: Path) -> None:
    folder = tmp_path / "exported"
    assert run_command("export", "atif", demo, "--output", folder, "--one-file-each")[0] == 0
    sent = push(folder, "o/n", dry_run=True).files
    assert sum(name.startswith("trajectories/") for name in sent) == 8


def test_a_url_is_no_folder_to_push_or_pull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="only a local or mounted place"):
        push("s3://bucket/run", "o/n", dry_run=True)
    with pytest.raises(ConfigError, match="only a local or mounted place"):
        pull("o/n", "s3://bucket/run")
    assert not list(tmp_path.iterdir())


def test_the_folder_one_is_in_is_no_output(
    tmp_path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ConfigError, match="is where you are; name a new folder"):
        pull("o/n", ".")
    assert run_command("export", "nemo-gym", demo, "--output", ".")[0] == 2
    assert not list(Path.cwd().iterdir())


def test_a_card_states_no_license_where_a_task_file_states_none() -> None:
    files = [{"name": "sums", "license": "MIT"}, {"name": "held", "license": None}]
    report = {"written": {"train": 2}, "task_files": files}
    assert "license" not in front_matter(prepared_card(report, ["train"], None))
    assert front_matter(prepared_card(report, ["train"], "mit"))["license"] == "mit"


def test_the_card_tells_datasets_of_one_name_apart_by_environment() -> None:
    files = [
        {"name": "train", "environment": "a", "license": "CC BY-NC 3.0", "read": 10},
        {"name": "train", "environment": "b", "license": "Apache 2.0", "read": 20},
    ]
    card = prepared_card({"written": {"train": 30}, "task_files": files}, ["train"], None)
    assert sorted(front_matter(card)["license"]) == ["apache-2.0", "cc-by-nc-3.0"]
    assert "| a/train | 10 read" in card
    assert "| b/train | 20 read" in card
