"""What a notebook shows: all of it text, whatever rollouts and runs hold."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gym_ray import Rollout, RolloutGroup, RolloutResult, read_rollouts
from gym_ray.collection.summary import Reward, RunSummary
from gym_ray.errors import FailureKind
from gym_ray.renderers import AssistantMessage, ToolCall, items_from_message
from gym_ray.verifiers.advantages import standardized
from tests.stored import stored_run, sum_rollout, unplayed

TAGS = {
    "div", "span", "b", "pre", "details", "summary", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip

#: Pieces of markup, of mathematics, and of what hides or reorders a text.
HOSTILE = st.lists(
    st.sampled_from(
        ["<script>", "</pre>", "</div>", '"', "'", "&lt;", "<img src=x onerror=y>", "$", "\\href{",
         "]]>", "<!--", "\x1b[2J", "\u202e", "\0", "\n", "a"]
    )
    | st.characters(),
    max_size=8,
).map("".join)  # fmt: skip


class Page(HTMLParser):
    """The tags, attributes and text of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.classes: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes |= {name for name, _ in attributes}
        self.classes += [value or "" for name, value in attributes if name == "class"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    def handle_decl(self, decl: str) -> None:
        raise AssertionError("a declaration")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError("a declaration")

    @property
    def text(self) -> str:
        return "".join(self.texts)


def checked(text: str) -> Page:
    """A page that is well-formed and made of nothing that does anything."""
    page = Page(text)
    assert page.open == []
    assert set(page.tags) <= TAGS
    assert page.attributes <= {"style", "class"}
    assert "mathjax_ignore" in page.classes[0]
    assert not set(page.text) & set("\x1b\x00\r\u202e\u2066\u200b")
    return page


def hostile_rollout(text: str, repeat: int = 0, reward: float = 0.5) -> Rollout:
    said = AssistantMessage(text, text, (ToolCall(text, text, text),))
    items = [
        *items_from_message(said, item_id_prefix="r_0"),
        {"type": "function_call_output", "call_id": text, "output": text},
    ]
    rollout = sum_rollout(
        1,
        repeat,
        reply="",
        prompt=json.dumps([{"role": "user", "content": text}]),
        response=json.dumps(items),
        reward=reward,
        reward_components={text: reward},
        metrics={text: 1.0},
    )
    spec = dataclasses.replace(
        rollout.spec, environment=text, rollout_id=text, task=json.dumps({"expected_answer": text})
    )
    return dataclasses.replace(rollout, spec=spec, agent=text, model=text)


@given(HOSTILE)
def test_no_rollout_gets_out_of_its_text(text: str) -> None:
    checked(hostile_rollout(text)._repr_html_())


@given(HOSTILE)
def test_no_group_gets_out_of_its_text(text: str) -> None:
    results = [
        RolloutResult(0, repeat, hostile_rollout(text, repeat, reward))
        for repeat, reward in enumerate((0.0, 1.0))
    ]
    checked(RolloutGroup(0, tuple(results))._repr_html_())
    checked(results[0]._repr_html_())


@given(HOSTILE)
def test_no_summary_gets_out_of_its_text(text: str) -> None:
    counts = {"completed": 1, "truncated": 0, "failed": 1}
    summary = RunSummary(
        run_id=text,
        output=text,
        expected=2,
        pending=0,
        **counts,
        reward=Reward(0.5, None, 0.5),
        environments={
            text: {"expected": 2, **counts, "reward": {"mean": 0.5, "std": 0.1, "coverage": 0.5}}
        },
        failure_kinds={text: 1},
        invalid_rows=[text],
        retried=0,
        retried_reward_difference=None,
        sampled_tokens=1234,
        shards=1,
        seconds=12.0,
        collecting_seconds=10.0,
        interrupted=None,
        run={},
    )

    page = checked(summary._repr_html_())
    assert "2 rollouts, 1 completed, 1 failed" in page.text
    assert "reward 0.5 (coverage 50.0%)" in page.text
    assert "0.5 ± 0.1 (coverage 50.0%)" in page.text
    assert "\n" not in repr(summary)
    assert repr(summary).endswith(
        ": 2 rollouts, 1 completed, 1 failed; reward 0.5 (coverage 50.0%)>"
    )


def test_a_rollout_is_shown_with_everything_that_was_said() -> None:
    rollout = hostile_rollout("<b>6</b> & more")

    page = checked(rollout._repr_html_())

    for text in ("<b>6</b> & more", "→ <b>6</b> & more(<b>6</b> & more)", "← <b>6</b> & more"):
        assert text in page.texts
    assert "expected_answer" in page.texts
    assert "reasoning, 15 characters" in page.texts


def test_long_texts_are_folded_and_very_long_ones_shortened() -> None:
    def shown(length: int) -> Page:
        message = {"role": "assistant", "content": "x" * length}
        rollout = sum_rollout(1, reply="", response=json.dumps([message]))
        return checked(rollout._repr_html_())

    assert "details" not in shown(1_000).tags
    assert "details" in shown(10_000).tags
    assert "text, 10,000 characters" in shown(10_000).texts
    huge = shown(3_000_000)
    assert len(huge.text) < 150_000
    assert "characters left out]" in huge.text


def test_a_group_is_short_in_print_and_shows_its_best_and_worst() -> None:
    rollouts = [
        sum_rollout(2, 0, reply="no"),
        sum_rollout(2, 1, reply="4"),
        sum_rollout(2, 2, reply="no", status="failed", error_kind=FailureKind.VERIFIER_ERROR,
                    error="it broke"),
    ]  # fmt: skip
    group = RolloutGroup(7, tuple(RolloutResult(7, n, r) for n, r in enumerate(rollouts)))

    short = "Task 2 of arithmetic: 3 rollouts, reward 0 to 1, mean 0.5, 1 failed"
    assert repr(group) == f"<group 7: {short}>"
    page = checked(group._repr_html_())
    assert page.texts[0] == short
    cells = [text for text in page.texts if text in ("-0.7071", "0.7071", "none", "it broke")]
    assert cells == ["-0.7071", "0.7071", "none", "none", "it broke"]
    assert {"The best of them", "The worst of them"} <= set(page.texts)


@given(st.lists(st.none() | st.sampled_from([0.0, 0.5, 1.0]), max_size=6))
def test_a_groups_advantages_are_those_of_the_export(rewards: list[float | None]) -> None:
    results = [
        RolloutResult(0, n, unplayed(2, n) if r is None else sum_rollout(2, n, reply="", reward=r))
        for n, r in enumerate(rewards)
    ]

    found = RolloutGroup(0, tuple(results)).advantages

    assert [n for n, value in enumerate(found) if value is None] == [
        n for n, reward in enumerate(rewards) if reward is None
    ]
    judged = np.array([reward for reward in rewards if reward is not None])
    assert [value for value in found if value is not None] == standardized(judged).tolist()


def test_rollouts_of_a_run_are_a_table_of_the_first(tmp_path: Path) -> None:
    run = stored_run(
        tmp_path / "run",
        [
            *(
                sum_rollout(
                    task,
                    repeat,
                    reply="<i>4</i>",
                    prompt=json.dumps([{"role": "user", "content": f"{task} and {task}?"}]),
                )
                for task in range(8)
                for repeat in range(2)
            ),
            unplayed(8),
        ],
    )
    rollouts = read_rollouts(run)

    counts = "17 rollouts of 9 tasks, 16 completed, 1 failed, mean reward 0"
    assert repr(rollouts) == f"<{counts}>"
    page = checked(rollouts._repr_html_())
    assert page.texts[0] == counts
    assert page.tags.count("tr") == 11
    assert page.texts.count("<i>4</i>") == 10
    assert "0 and 0?" in page.texts
    assert page.texts[-1] == "and 7 more"
    some = read_rollouts(run, columns=["reward", "task_id"])
    assert "columns: reward, task_id" in checked(some._repr_html_()).texts
    assert repr(some).endswith("; columns reward, task_id>")
    assert checked(rollouts[:0]._repr_html_()).texts[0] == "0 rollouts of 0 tasks"
