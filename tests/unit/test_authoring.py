"""The template is sound, and the check finds what would break a run."""

import asyncio
import json
from pathlib import Path
from textwrap import dedent

import pytest

from gym_ray.authoring import (
    CheckReport,
    Finding,
    Subject,
    check,
    check_environment,
    create_environment,
)
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


TEMPLATES = ("single", "tools", "game")


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("single", "river_names"),
        ("tools", "river_names/config.yaml"),
        ("game", "river_names/scripted.yaml"),
    ],
)
def test_a_new_environment_passes_its_check(template: str, path: str, tmp_path: Path) -> None:
    files = create_environment("river_names", tmp_path, template)

    report = check_environment(tmp_path / path)

    assert report.ok, report.findings
    assert report.rows == 8
    assert any(
        finding.check == "gold answers" and finding.detail.startswith("8 get 1, more")
        for finding in report.findings
    )
    assert all(file.is_file() for file in files)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ["environment", "task", "game", "shelf", "step", "gold_step"])
def test_a_name_may_be_a_word_of_the_template(name: str, template: str, tmp_path: Path) -> None:
    create_environment(name, tmp_path, template)

    subject = Subject.find(tmp_path / name)

    assert type(subject.environment).__mro__[1].__module__ == "gym_ray.environment"
    assert asyncio.run(subject.environment.reset(subject.task(1))) is not subject.environment


def test_there_are_the_templates_that_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no template 'tool'; templates: single, tools, game"):
        create_environment("demo", tmp_path, "tool")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_new_environment_collects_32_rollouts(template: str, tmp_path: Path) -> None:
    from gym_ray.config.load import load_config

    create_environment("demo", tmp_path, template)
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


SHOP = """
from gym_ray import Environment, tool

class Shop(Environment):
    async def reset(self, task):
        return []

    @tool
    async def buy(self, state, item: str):
        if item == "air":
            raise ValueError("air is not for sale")
        state.append(item)
        return f"{len(state)} bought"

    async def verify(self, outcome):
        return float(outcome.state == outcome.task["basket"])
"""


def shop(folder: Path, *golds: object, agent: str = "auto") -> Path:
    """A shop in which two breads are to be bought, and rows with these gold answers."""
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text(SHOP)
    (folder / "config.yaml").write_text(
        f'environments: {{shop: {{entrypoint: ".:Shop", agent: {agent}}}}}\n'
    )
    params = {"input": "Buy bread, twice."}
    rows = [
        {"responses_create_params": params, "basket": ["bread"] * 2, "gold_answer": gold, "n": n}
        for n, gold in enumerate(golds)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data" / "example.jsonl").write_text(text)
    return folder


def bought(item: str) -> dict[str, object]:
    return {"name": "buy", "arguments": {"item": item}}


def gold_finding(folder: Path) -> Finding:
    report = check_environment(folder)
    (finding,) = (one for one in report.findings if one.check == "gold answers")
    return finding


def test_gold_steps_are_played_through_the_tools(tmp_path: Path) -> None:
    bread = bought("bread")
    by_markup = "<tool_call>" + json.dumps(bread) + "</tool_call>"

    report = check_environment(
        shop(tmp_path / "shop", [bread, bread, "Done."], [bread, bread], [by_markup, by_markup])
    )

    assert report.ok, report.findings
    assert ("gold answers", "3 get 1, more than an empty reply") in [
        (finding.check, finding.detail) for finding in report.findings
    ]
    assert report.example.splitlines() == [
        "the gold answer to line 1:",
        "user",
        "  Buy bread, twice.",
        "policy calls buy",
        '  {"item": "bread"}',
        "tool",
        "  1 bought",
        "policy calls buy",
        '  {"item": "bread"}',
        "tool",
        "  2 bought",
        "policy",
        "  Done.",
        "verdict: reward 1",
    ]


@pytest.mark.parametrize(
    ("gold", "told"),
    [
        ([bought("bread"), "Done."], "line 1: gold reward 0, empty reward 0"),
        ([bought("bread"), bought("air")], "buy said 'Error: ValueError: air is not for sale'"),
        ([bought("bread"), "Wait.", bought("bread")], "only 2 of its 3 steps were played"),
        ([bought("bread"), {"nam": "buy"}], 'line 1: step 2 is {"nam": "buy"}; write a text, or'),
        ([{"name": "buy", "arguments": ["bread"]}], "line 1: step 1 is"),
        ("Bread, twice.", "line 1: gold reward 0, empty reward 0"),
    ],
)
def test_a_gold_answer_that_earns_nothing_is_told_with_what_hindered_it(
    gold: object, told: str, tmp_path: Path
) -> None:
    finding = gold_finding(shop(tmp_path / "shop", gold))

    assert not finding.ok
    assert told in finding.detail


@pytest.mark.parametrize("gold", [None, 4, [4, 5], {"answer": 4}])
def test_a_gold_answer_in_the_form_of_others_is_not_checked(gold: object, tmp_path: Path) -> None:
    finding = gold_finding(shop(tmp_path / "shop", gold))

    assert finding.ok
    assert finding.detail.startswith("not checked")


def test_the_worst_gold_answer_is_named_where_they_differ(tmp_path: Path) -> None:
    folder = environment(tmp_path / "trial", "return len(outcome.text) / 10")
    code = (folder / "__init__.py").read_text()
    (folder / "__init__.py").write_text(code.replace('["expected_answer"]', '["gold"]'))
    rows = [
        {"responses_create_params": {"input": "?"}, "expected_answer": "", "gold": "x" * length}
        for length in (10, 5, 10)
    ]
    (folder / "data" / "example.jsonl").write_text("\n".join(map(json.dumps, rows)))

    assert gold_finding(folder).detail == "3 get 0.5 (line 2) to 1, more than an empty reply"


def test_without_gold_an_empty_reply_is_shown(tmp_path: Path) -> None:
    report = check_environment(shop(tmp_path / "shop", None))

    assert report.example.startswith("an empty reply to line 1:\nuser\n")
    assert report.example.endswith("verdict: reward 0")


def test_an_agent_outside_is_not_started_and_its_environment_is_checked(tmp_path: Path) -> None:
    folder = environment(tmp_path / "trial", VERIFY["sound"])
    section = {"entrypoint": ".:Trial", "external": {"command": ["no-such-program"]}}
    (folder / "config.yaml").write_text(json.dumps({"environments": {"trial": section}}))

    assert failed(check_environment(folder)) == set()


@pytest.mark.parametrize("path", ["trial", "trial.yaml", "./trial/../trial"])
def test_a_config_may_lie_beside_its_folder(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = environment(tmp_path / "trial", VERIFY["sound"])
    (folder / "config.yaml").unlink()
    (folder / "data" / "example.jsonl").rename(tmp_path / "rows.jsonl")
    (tmp_path / "trial.yaml").write_text(
        "environments: {trial: {entrypoint: 'trial:Trial'}}\ncollect: {input: rows.jsonl}\n"
    )

    report = check_environment(Path(path))

    assert report.ok, report.findings
    assert report.rows == 2


def test_a_folder_without_a_config_is_told_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.yaml in it and no trial\.yaml beside it"):
        check_environment(tmp_path / "trial")


def test_rollouts_that_failed_are_no_verdicts(tmp_path: Path) -> None:
    folder = environment(tmp_path / "trial", "raise ValueError('no')")
    assert "determinism" in failed(check_environment(folder))


def test_rows_that_are_alike_are_all_tried(tmp_path: Path) -> None:
    report = check_environment(shop(tmp_path / "shop", None))
    file = tmp_path / "shop" / "data" / "example.jsonl"
    file.write_text(file.read_text() * 3)

    again = check_environment(tmp_path / "shop")

    assert (report.rows, again.rows) == (1, 3)
    assert again.ok, again.findings
