"""The command line: exit codes, and messages instead of tracebacks. Nothing here starts Ray."""

import errno
import importlib.metadata
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gym_ray import read_rollouts

Write = Callable[..., Path]
RunCli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config whose environment is a file beside it."""
    (tmp_path / "plain.py").write_text(
        "from gym_ray import Environment\nclass Plain(Environment): pass\n"
    )
    path = tmp_path / "run.yaml"
    path.write_text(
        f"""
policy: {{engine: scripted}}
environments: {{plain: {{entrypoint: "./plain:Plain"}}}}
collect: {{input: {tmp_path}/tasks.jsonl, output: {tmp_path}/runs/demo}}
"""
    )
    return path


def test_help_has_an_example_and_exit_code_zero(gym_ray: RunCli) -> None:
    assert gym_ray("--help")[0] == 0
    code, out, _ = gym_ray("collect", "--help")

    assert code == 0
    assert "gym-ray collect deployments/laptop-cpu.yaml" in out


def listed(text: str) -> dict[str, list[str]]:
    """Commands that a help lists, by section."""
    after = text.partition("Show this message and exit.\n")[2]
    sections = re.findall(r"^(\w+):\n((?:  .*\n)+)", after, re.M)
    return {title: re.findall(r"^  (\S+)", rows, re.M) for title, rows in sections}


def test_examples_of_every_command_can_be_pasted(gym_ray: RunCli) -> None:
    def commands(*path: str) -> list[tuple[str, ...]]:
        names = [name for part in listed(gym_ray(*path, "--help")[1]).values() for name in part]
        return [found for name in names for found in commands(*path, name)] if names else [path]

    shown = {command: gym_ray(*command, "--help")[1] for command in commands()}
    assert len(shown) > 15
    for command, text in shown.items():
        examples = re.findall(r"^    (gym-ray (?:.*\\\n)*.*)$", text, re.M)
        assert examples, command
        for example in examples:
            words = shlex.split(example)
            assert tuple(words[1 : 1 + len(command)]) == command
            # What a line break would cut off: options have their values.
            assert not words[-1].startswith("--") or words[-1] in text
    assert "{" not in shown["collect",].splitlines()[0]


def test_every_command_is_listed_under_its_work_with_a_whole_sentence_on_one_line(
    gym_ray: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = gym_ray("--help")[1]

    works = listed(text)
    assert list(works) == ["Collect", "Look", "Data", "Environments", "Serve"]
    names = [name for part in works.values() for name in part]
    assert len(names) == len(set(names)) > 12
    rows = re.findall(r"^  [a-z].*$", text.partition("Collect:")[2], re.M)
    assert len(rows) == len(names)
    assert all(row.endswith(".") and "..." not in row for row in rows)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_and_options_are_completed_by_every_shell(
    gym_ray: RunCli, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setenv("_GYM_RAY_COMPLETE", f"complete_{shell}")

    def completed(line: str) -> str:
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        return gym_ray()[1]

    assert {"collect", "config"} <= set(re.findall(r"\bco\w+", completed("gym-ray co")))
    assert "--min-reward" in completed("gym-ray export sft runs/demo --min")
    assert "length-matched" in completed("gym-ray export dpo runs/demo --pairing len")


def test_the_version_is_told(gym_ray: RunCli) -> None:
    assert gym_ray("--version")[:2] == (0, f"gym-ray {importlib.metadata.version('gym-ray')}\n")


def test_keys_of_the_config_are_named_where_they_were_looked_for(
    gym_ray: RunCli, config: Path
) -> None:
    code, _, error = gym_ray("collect", config, "--num-repeats", "3")
    assert (code, "write collect.num_repeats=VALUE" in error) == (2, True)
    code, _, error = gym_ray("collect", config, "num_repeats=3")
    assert (code, "did you mean 'collect.num_repeats'?" in error) == (2, True)


def test_what_is_no_config_or_no_task_file_is_refused_in_a_line(
    gym_ray: RunCli, config: Path, tmp_path: Path
) -> None:
    page = tmp_path / "README.md"
    page.write_text("# Title\n\n**bold** and *more\n")
    code, _, error = gym_ray("collect", page)
    assert (code, error.count("\n")) == (2, 1)
    assert f"{page}:3: not readable as YAML" in error

    code, _, error = gym_ray("collect", config, f"collect.input={page}")
    assert (code, error.count("\n")) == (2, 1)
    assert "is no file of task rows: it begins with '# Title'" in error
    assert not list(tmp_path.rglob("*.parquet"))


def test_rows_beside_the_config_are_pointed_at(
    gym_ray: RunCli, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, error = gym_ray("collect", config, "collect.input=rows.jsonl")
    assert code == 2
    assert f"{tmp_path / 'rows.jsonl'} is there: write that" in error


def test_an_error_of_the_system_says_where_it_came_from(
    gym_ray: RunCli, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("gym_ray.config.load.load_config", broken)
    code, _, error = gym_ray("collect", config)
    assert code == 1
    assert "(in broken, " in error
    log = Path(error.splitlines()[-1].removeprefix("gym-ray: log: "))
    assert "$ gym-ray collect" in log.read_text()
    assert "FileNotFoundError" in log.read_text()


@pytest.mark.parametrize("arguments", [["colect"], ["collect"], ["collect", "x.yaml", "--nothing"]])
def test_wrong_usage_has_exit_code_two(gym_ray: RunCli, arguments: list[str]) -> None:
    assert gym_ray(*arguments)[0] == 2


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["collect.num_repeat=3"], "unknown key 'collect.num_repeat'; did you mean 'num_repeats'?"),
        (["collect.num_repeats"], "must look like collect.num_repeats=16"),
        (["collect.limit=[1"], "is not KEY=YAML"),
        (["collect.input=none.jsonl"], "collect.input 'none.jsonl': no such file"),
        (["collect.input={folder}/empty.jsonl"], "empty.jsonl holds no task rows"),
        (["collect.input=env:plain"], "does not generate tasks; set collect.input to a JSONL"),
        (["collect.input=env:plane"], "no environment 'plane' is configured; configured: plain"),
        (["environments={{plane: {{}}}}"], "no environment is registered by that name"),
        (["environments.plain.params.x=1"], "environments.plain.params: Plain refuses them"),
        (["environments.plain.entrypoint=./plane:Plain"], "cannot be imported"),
        (["collect.output=/proc/demo"], "cannot be written"),
        (["collect.output={folder}/tasks.jsonl"], "cannot be written: File exists"),
        (["collect.output={folder}"], "is not of a gym-ray run; name a new folder"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_two(
    gym_ray: RunCli, config: Path, write_lines: Write, overrides: list[str], says: str
) -> None:
    write_lines(["{}"])
    write_lines([""], "empty.jsonl")

    code, out, err = gym_ray(
        "collect", config, "--quiet", *(text.format(folder=config.parent) for text in overrides)
    )

    assert code == 2
    assert out == ""
    assert err.startswith("gym-ray: ")
    assert says in err


def test_a_missing_config_and_a_wrong_one_are_named(gym_ray: RunCli, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")

    assert gym_ray("collect", "none.yaml")[::2] == (2, "gym-ray: none.yaml: no such config file\n")
    code, _, err = gym_ray("collect", tmp_path / "bad.yaml")
    assert (code, f"{tmp_path}/bad.yaml:2: not readable as YAML" in err) == (2, True)


def test_the_corrected_command_works_after_the_mistaken_one(
    gym_ray: RunCli, config: Path, write_lines: Write
) -> None:
    assert gym_ray("collect", config, "--quiet")[0] == 2  # there are no tasks yet
    write_lines([""])
    assert gym_ray("collect", config, "--quiet")[0] == 2  # an empty file is none
    write_lines(["{broken"])

    assert gym_ray("collect", config, "--quiet", "collect.max_failed_share=1")[0] == 0


def test_an_input_without_a_single_task_is_refused(
    gym_ray: RunCli, config: Path, write_lines: Write
) -> None:
    path = write_lines(["{broken", '{"responses_create_params": {}}'])

    code, _, err = gym_ray("collect", config, "--quiet")

    assert code == 2
    assert f"not one of 2 rows is a task for this config; {path}:1: row is not JSON" in err
    assert not (config.parent / "runs").exists()


def test_malformed_rows_are_failures_and_too_many_have_exit_code_three(
    gym_ray: RunCli, config: Path, write_lines: Write
) -> None:
    path = write_lines(["{broken", '{"responses_create_params": {}}'])
    common = ["collect", config, "collect.num_repeats=2"]
    code, _, err = gym_ray(*common, "collect.max_failed_share=1")
    assert code == 0
    assert f"2 rows are no tasks and will be failures: {path}:1: row is not JSON" in err

    code, out, err = gym_ray(*common)

    assert code == 3
    assert "4 rollouts expected = 0 completed + 0 truncated + 4 failed + 0 pending" in out
    assert f"{path}:2: row responses_create_params has no 'input'" in out
    assert err.endswith(
        "gym-ray: 4 of 4 rollouts failed, more than collect.max_failed_share=0.05 allows\n"
        f"gym-ray: log: {config.parent}/runs/demo/log.txt\n"
    )
    rollouts = list(read_rollouts(config.parent / "runs" / "demo"))
    assert [rollout.spec.source_line for rollout in rollouts] == [1, 1, 2, 2]
    assert {rollout.error_kind for rollout in rollouts} == {"task_invalid"}


def test_json_is_the_summary_and_agrees_with_the_file(
    gym_ray: RunCli, config: Path, write_lines: Write
) -> None:
    write_lines(["{broken"])

    code, out, err = gym_ray("collect", config, "--json", "--quiet", "collect.max_failed_share=1")

    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary == json.loads((config.parent / "runs" / "demo" / "summary.json").read_text())
    assert (summary["expected"], summary["failed"], summary["shards"]) == (1, 1, 1)


def test_a_changed_input_is_refused_until_it_may_extend_the_run(
    gym_ray: RunCli, config: Path, write_lines: Write
) -> None:
    write_lines(["{one"])
    common = ["collect", config, "--quiet", "--json", "collect.max_failed_share=1"]
    assert gym_ray(*common)[0] == 0
    path = write_lines(["{one", "{two"])

    code, _, err = gym_ray(*common)
    assert code == 2
    assert f"the input changed since this run began ({path}); add collect.extend=true" in err

    code, out, _ = gym_ray(*common, "collect.extend=true")
    assert (code, json.loads(out)["expected"], json.loads(out)["failed"]) == (0, 2, 2)
    code, out, _ = gym_ray(*common)
    assert (code, json.loads(out)["expected"]) == (0, 2)


def test_a_run_that_is_there_grows_by_repeats_and_rows_and_never_shrinks(
    gym_ray: RunCli, config: Path, write_lines: Write
) -> None:
    write_lines(["{one", "{two", "{three"])
    common = ["collect", config, "--quiet", "--json", "collect.max_failed_share=1"]
    run = config.parent / "runs" / "demo"

    def collected(*overrides: str) -> list[tuple[int, int]]:
        code, out, err = gym_ray(*common, *overrides)
        assert (code, err) == (0, "")
        assert json.loads(out)["expected"] == json.loads(out)["failed"]
        return [(r.spec.task_index, r.spec.rollout_index) for r in read_rollouts(run)]

    def refused(*overrides: str) -> str:
        code, out, err = gym_ray(*common, *overrides)
        assert (code, out) == (2, "")
        return err

    assert collected("collect.num_repeats=2", "collect.limit=2") == [(0, 0), (0, 1), (1, 0), (1, 1)]
    before = {rollout.spec.rollout_id for rollout in read_rollouts(run)}
    more = ["collect.num_repeats=3", "collect.limit=null"]

    assert "num_repeats: 2 -> 3\n" in refused(*more)
    assert "add collect.extend=true to add the rollouts that lack" in refused(*more)
    assert "extend" not in refused(*more, "sampling.temperature=0.5")
    places = [(task, repeat) for task in range(3) for repeat in range(3)]
    assert collected(*more, "collect.extend=true") == places
    assert before < {rollout.spec.rollout_id for rollout in read_rollouts(run)}

    assert collected(*more) == places
    less = refused("collect.num_repeats=2", "collect.extend=true")
    assert "num_repeats: 3 -> 2 (it may only grow: rollouts that are there stay)" in less
    assert "add collect.extend" not in less


def test_an_extension_that_was_killed_between_its_two_files_is_continued(
    gym_ray: RunCli, config: Path, write_lines: Write
) -> None:
    write_lines(["{one"])
    common = ["collect", config, "--quiet", "--json", "collect.max_failed_share=1"]
    assert gym_ray(*common)[0] == 0
    saved = (config.parent / "runs" / "demo" / "run.yaml").read_text()
    more = ["collect.num_repeats=3", "collect.extend=true"]
    assert gym_ray(*common, *more)[0] == 0
    (config.parent / "runs" / "demo" / "run.yaml").write_text(saved)

    for less in ([], ["collect.num_repeats=2", "collect.extend=true"]):
        code, _, err = gym_ray(*common, *less)
        assert code == 2
        assert "write collect.extend=true collect.num_repeats=3 collect.limit=null" in err

    code, out, _ = gym_ray(*common, *more)
    assert (code, json.loads(out)["expected"]) == (0, 3)
    assert gym_ray(*common, "collect.num_repeats=3")[0] == 0


def test_a_changed_config_is_refused_with_the_differing_keys(
    gym_ray: RunCli, config: Path, write_lines: Write
) -> None:
    write_lines(["{broken"])
    common = ["collect", config, "--quiet", "collect.max_failed_share=1"]
    assert gym_ray(*common)[0] == 0

    code, _, err = gym_ray(*common, "sampling.temperature=0.5")

    assert code == 2
    assert "sampling.temperature: 1.0 -> 0.5" in err
