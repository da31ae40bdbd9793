"""The template is sound, and the check finds what would break a run."""

import json
from pathlib import Path
from textwrap import dedent

import pytest

from gym_ray.authoring import CheckReport, check, check_environment, create_environment
from gym_ray.errors import ConfigError

VERIFY = {
    "sound": "return float(outcome.text == outcome.task['expected_answer'])",
    "random": "import random; return random.random()",
    "counts calls": "self.calls = getattr(self, 'calls', 0) + 1; return float(self.calls)",
    "raises at nothing": "return 1 / len(outcome.text)",
    "prefers nothing": "return float(not outcome.text)",
    "chokes on length": "assert len(outcome.text) < 1000; return float(bool(outcome.text))",
    "blocks": "import time; time.sleep(0.03); return float(bool(outcome.text))",
}


def environment(folder: Path, verify: str, rows: list[dict[str, object]] | None = None) -> Path:
    """An environment whose `verify` has this body and runs on the event loop."""
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text(
        dedent("""
        from gym_ray import Environment, TaskFields

        class Trial(Environment):
            class Fields(TaskFields):
                expected_answer: str

            async def verify(self, outcome):
                {verify}

            def gold_answer(self, task):
                return task["expected_answer"]
        """).format(verify=verify)
    )
    (folder / "config.yaml").write_text('environments: {trial: {entrypoint: ".:Trial"}}\n')
    rows = rows or [
        {"responses_create_params": {"input": "2 + 2?"}, "expected_answer": "4"},
        {"responses_create_params": {"input": "2 + 3?"}, "expected_answer": "5"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data" / "example.jsonl").write_text(text)
    return folder


def failed(report: CheckReport) -> set[str]:
    return {finding.check for finding in report.findings if not finding.ok}


def test_a_new_environment_passes_its_check(tmp_path: Path) -> None:
    files = create_environment("river_names", tmp_path)

    report = check_environment(tmp_path / "river_names")

    assert report.ok, report.findings
    assert report.rows == 8
    assert all(file.is_file() for file in files)


def test_a_new_environment_collects_32_rollouts(tmp_path: Path) -> None:
    from gym_ray.config.load import load_config

    create_environment("demo", tmp_path)
    collect = load_config(tmp_path / "demo" / "config.yaml").collect

    rows = Path(collect.input).read_text().splitlines()
    assert len(rows) * collect.num_repeats == 32


@pytest.mark.parametrize("name", ["Demo", "2nd", "my-task", "class", "../demo", ""])
def test_a_name_that_is_no_identifier_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="identifier"):
        create_environment(name, tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()

    with pytest.raises(ConfigError, match="is there already"):
        create_environment("demo", tmp_path)


def test_a_sound_environment_has_no_finding_against_it(tmp_path: Path) -> None:
    assert failed(check_environment(environment(tmp_path / "trial", VERIFY["sound"]))) == set()


@pytest.mark.parametrize(
    ("verify", "expected"),
    [
        ("random", "determinism"),
        ("counts calls", "determinism"),
        ("raises at nothing", "empty replies"),
        ("prefers nothing", "gold answers"),
        ("chokes on length", "odd replies"),
    ],
)
def test_what_would_break_a_run_is_found(verify: str, expected: str, tmp_path: Path) -> None:
    report = check_environment(environment(tmp_path / "trial", VERIFY[verify]))

    assert expected in failed(report)


def test_a_verifier_that_blocks_the_event_loop_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "LOOP_PAUSE_SECONDS", 0.02)

    report = check_environment(environment(tmp_path / "trial", VERIFY["blocks"]))

    assert failed(report) == {"event loop"}


def test_an_illegal_example_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"responses_create_params": {"input": "2 + 2?"}, "expected_answer": "4"},
        {"responses_create_params": {"input": "2 + 3?"}},
    ]

    report = check_environment(environment(tmp_path / "trial", VERIFY["sound"], rows))

    finding = next(finding for finding in report.findings if finding.check == "example rows")
    assert not finding.ok
    assert "example.jsonl:2" in finding.detail
    assert "expected_answer" in finding.detail


def test_an_environment_without_example_rows_is_told_where_to_put_them(tmp_path: Path) -> None:
    folder = environment(tmp_path / "trial", VERIFY["sound"])
    (folder / "data" / "example.jsonl").unlink()

    with pytest.raises(ConfigError, match=r"data/example\.jsonl"):
        check_environment(folder)


@pytest.mark.parametrize(("agent", "offered"), [("single_turn", False), ("tool_calling", True)])
def test_tools_that_are_never_offered_are_found(agent: str, offered: bool, tmp_path: Path) -> None:
    folder = environment(tmp_path / "trial", VERIFY["sound"])
    code = (folder / "__init__.py").read_text().replace("import Env", "import tool, Env")
    tool = "\n    @tool\n    def look(self, state, where: str) -> str:\n        return where\n"
    (folder / "__init__.py").write_text(code + tool)
    (folder / "config.yaml").write_text(
        f'environments: {{trial: {{entrypoint: ".:Trial", agent: {agent}}}}}\n'
    )

    report = check_environment(folder)

    assert ("tools" in failed(report)) is not offered
    if not offered:
        (finding,) = (one for one in report.findings if one.check == "tools")
        assert (
            finding.detail == "look: agent single_turn never offers them; set agent: tool_calling"
        )


def test_rollouts_that_failed_are_no_verdicts(tmp_path: Path) -> None:
    folder = environment(tmp_path / "trial", "raise ValueError('no')")
    assert "determinism" in failed(check_environment(folder))
