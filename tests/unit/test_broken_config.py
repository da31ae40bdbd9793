"""Every command on a run whose `run.yaml` is absent, torn or unreadable.

None may end with exit code 0 and have dropped the filters of an objective, or the licenses of the
tasks, without a word. Nothing here starts Ray.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gym_ray.cli.main import main
from gym_ray.config.load import load_config
from gym_ray.errors import FileTorn, FileUnreadable
from gym_ray.store.places import write_table_whole
from gym_ray.store.rows import specs_to_table
from gym_ray.store.run_directory import RunDirectory
from gym_ray.store.stored_config import StoredConfig
from tests.hub_folders import finished_run
from tests.stored import arithmetic_config, sum_rollout

Break = Callable[[Path], None]
RunCli = Callable[..., tuple[int, str, str]]

LICENSE = "CC BY-NC 3.0"


def cut_in_a_section(file: Path) -> None:
    """Half of it: legal YAML, that names neither an objective nor all environments."""
    text = file.read_text()
    file.write_text(text[: text.index("environments:")])
    assert isinstance(yaml.safe_load(file.read_text()), dict)


def cut_in_a_line(file: Path) -> None:
    text = file.read_text()
    file.write_text(text[: text.index("license:") + 3])


def cut_in_the_last_line(file: Path) -> None:
    file.write_text(file.read_text()[:-4])


def cut_to_nothing(file: Path) -> None:
    file.write_text("")


def of_zeros(file: Path) -> None:
    """What some file systems leave of a file after a power cut."""
    file.write_bytes(bytes(file.stat().st_size))


def no_text(file: Path) -> None:
    file.write_bytes(b"policy: \xff\xfe\n")


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


BREAKS: list[Break] = [
    cut_in_a_section, cut_in_a_line, cut_in_the_last_line, cut_to_nothing, of_zeros, no_text,
    a_folder,
]  # fmt: skip


@pytest.fixture
def gym_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunCli:
    """Run a command line; exit code, standard output, standard error."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gym-ray", *map(str, arguments), "--quiet"])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
        return int(ended.value.code or 0), said.out, said.err

    return run


def tree_of(folder: Path, objective: str | None) -> dict[str, Any]:
    tree = arithmetic_config(folder)
    dataset = {"name": "sums", "type": "train", "path": "sums.jsonl", "license": LICENSE}
    tree["environments"]["arithmetic"]["datasets"] = [dataset]
    tree["collect"]["objective"] = objective
    return tree


def run_for(objective: str | None, folder: Path) -> Path:
    """A finished run of licensed tasks, collected for an objective."""
    rollouts = [
        sum_rollout(task, repeat, reply=str(task * (2 if repeat else 3)))
        for task in range(4)
        for repeat in range(2)
    ]
    finished_run(folder, rollouts)
    write_table_whole(folder / "manifest.parquet", specs_to_table([r.spec for r in rollouts]))
    (folder / "run.yaml").unlink()
    config = load_config(tree_of(folder, objective))
    RunDirectory(folder, None, {"id": "r1", "kind": "collect"}, resumed=True).save_config(config)  # type: ignore[arg-type]
    return folder


def write_config(folder: Path, run: Path) -> Path:
    path = folder / "config.yaml"
    tree = tree_of(run, None)
    del tree["collect"]
    path.write_text(yaml.safe_dump(tree))
    (folder / "rows.jsonl").write_text(sum_rollout(1, reply="").spec.task + "\n")
    return path


#: A command on a run, as arguments; what is in braces is filled in.
EXPORTS = {kind: ["export", kind, "{run}", "--output", "{out}"] for kind in ("rl", "sft", "dpo")}
COMMANDS = EXPORTS | {
    "nemo-gym": ["export", "nemo-gym", "{run}", "--output", "{out}"],
    "atif": ["export", "atif", "{run}", "--output", "{out}"],
    "shards": ["export", "sft", "{run}/rollouts", "--output", "{out}"],
    "metrics": ["metrics", "{run}"],
    "metrics A B": ["metrics", "{whole}", "{run}"],
    "hub push": ["hub", "push", "{run}", "acme/x", "--dry-run", "--private"],
    "reverify": ["reverify", "{run}", "--output", "{out}"],
    "collect": ["collect", "{config}", "collect.output={run}", "collect.input={folder}/rows.jsonl"],
    "compat": [
        "compat", "ng_collect_rollouts", "+config_paths=[{config}]",
        "+input_jsonl_fpath={folder}/rows.jsonl", "+output_jsonl_fpath={folder}/nemo.jsonl",
        "+resume_from_cache=true",
    ],
}  # fmt: skip

#: What goes on without `run.yaml`, and says so.
WITHOUT = ("rl", "sft", "dpo", "nemo-gym", "atif", "shards", "metrics", "metrics A B")


def filled(command: str, folder: Path, objective: str | None = None) -> tuple[list[str], Path]:
    """Arguments of a command, and the run that it reads."""
    run = run_for(objective, folder / ("nemo_run" if command == "compat" else "run"))
    names = {"run": run, "out": folder / "out", "folder": folder, "whole": ""}
    if command == "metrics A B":
        names["whole"] = run_for(None, folder / "whole")
    names["config"] = write_config(folder, run)
    return [text.format(**names) for text in COMMANDS[command]], run


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.__name__)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_not_whole_ends_the_command_in_one_line(
    gym_ray: RunCli, tmp_path: Path, command: str, broken: Break
) -> None:
    arguments, run = filled(command, tmp_path)
    broken(run / "run.yaml")

    code, out, err = gym_ray(*arguments)

    assert (code, out) == (2, "")
    assert err.startswith(f"gym-ray: {run}/run.yaml")
    assert err.count("\n") == 1
    assert "restore it from a copy" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_absent_is_said_or_ends_the_command(
    gym_ray: RunCli, tmp_path: Path, command: str
) -> None:
    arguments, run = filled(command, tmp_path)
    (run / "run.yaml").unlink()

    code, out, err = gym_ray(*arguments)

    assert "run.yaml" in (out if command in WITHOUT else err)
    assert code == (0 if command in WITHOUT else 2)
    if code:
        assert err.count("\n") == 1
        assert not (tmp_path / "out").exists()
    if command in EXPORTS:
        (note,) = json.loads((tmp_path / "out" / "export.json").read_text())["notes"]
        assert "licenses of the tasks, filters of an objective" in note
        assert note in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "preset"),
    [("rl", "drop_zero_variance=true"), ("sft", "min_reward=0.8"), ("dpo", "margin=0.1")],
)
def test_of_a_whole_one_filters_and_licenses_count(
    gym_ray: RunCli, tmp_path: Path, kind: str, preset: str
) -> None:
    arguments, run = filled(kind, tmp_path, objective=kind)

    code, out, _ = gym_ray(*arguments)

    assert code == 0
    assert preset in out
    assert "run.yaml" not in out
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    assert report["task_licenses"] == {"arithmetic": {"sums": LICENSE}}
    assert (report["notes"], report["produced"]["id"]) == ([], "r1")

    code, _, _ = gym_ray("export", kind, run / "rollouts", "--output", tmp_path / "shards")
    again = json.loads((tmp_path / "shards" / "export.json").read_text())
    assert (code, again["preset"], again["rows"]) == (0, report["preset"], report["rows"])
    assert again["task_licenses"] == report["task_licenses"]


def test_wherever_the_file_ends_it_is_not_taken_for_whole(tmp_path: Path) -> None:
    run = run_for("sft", tmp_path / "run")
    file = run / "run.yaml"
    text = file.read_text()
    lines = [n + 1 for n, character in enumerate(text) if character == "\n"]
    ends = {*lines[:-1], *range(0, len(text), 97), *range(len(text) - 60, len(text))}
    assert StoredConfig.read(run).facts["id"] == "r1"

    for end in sorted(ends):
        file.write_text(text[:end])
        with pytest.raises(FileTorn):
            StoredConfig.read(run)


@pytest.mark.parametrize("section", ["environments: [a]", "environments: {a: 1}", "sampling: 3"])
def test_sections_that_are_none_are_refused(tmp_path: Path, section: str) -> None:
    (tmp_path / "run.yaml").write_text(f"{section}\nrun: {{id: x}}\n")

    with pytest.raises(FileTorn, match="is no section"):
        StoredConfig.read(tmp_path)


def test_a_reference_without_a_value_ends_what_asks_for_it(gym_ray: RunCli, tmp_path: Path) -> None:
    run = run_for(None, tmp_path / "run")
    (run / "run.yaml").write_text("environments: ${oc.env:NONE}\nrun: {id: x}\n")

    code, _, err = gym_ray("export", "rl", run, "--output", tmp_path / "out")

    assert (code, err.count("\n")) == (2, 1)
    assert "run.yaml: environments is ${oc.env:NONE}, which has no value here" in err
    assert not (tmp_path / "out").exists()


def test_what_may_not_be_read_is_told_from_what_is_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run_for(None, tmp_path / "run") / "run.yaml"

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)

    with pytest.raises(FileUnreadable, match=r"run\.yaml: cannot be read .*Permission denied"):
        StoredConfig.read(file.parent)


def test_a_torn_summary_or_manifest_is_no_sign_of_a_whole_run(
    gym_ray: RunCli, tmp_path: Path
) -> None:
    run = run_for(None, tmp_path / "run")
    manifest = (run / "manifest.parquet").read_bytes()
    (run / "manifest.parquet").write_bytes(manifest[: len(manifest) // 2])

    for command in (["export", "rl", run, "--output", tmp_path / "out"], ["metrics", run]):
        code, _, err = gym_ray(*command)
        assert (code, err.count("\n")) == (2, 1)
        assert f"{run}/manifest.parquet: no whole Parquet file" in err

    (run / "manifest.parquet").unlink()
    (run / "summary.json").write_text('{"pending": ')
    code, _, err = gym_ray("export", "rl", run, "--output", tmp_path / "out")
    assert (code, f"{run}/summary.json: no whole JSON" in err) == (2, True)


def test_one_module_names_the_file() -> None:
    """Whoever reads or writes `run.yaml` has its name from there."""
    root = Path(StoredConfig.read.__code__.co_filename).parents[1]
    naming = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if '"run.yaml"' in path.read_text() or "/run.yaml" in path.read_text()
    ]

    assert naming == ["store/stored_config.py"]
