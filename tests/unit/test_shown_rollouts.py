"""Rollouts as a person reads them: all there is, in order, and nothing that a text smuggles in."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gym_ray import Rollout
from gym_ray.conversation.group_text import best_and_worst_text
from gym_ray.conversation.plain_text import cells
from gym_ray.conversation.rollout_text import rollout_text
from gym_ray.errors import FailureKind
from gym_ray.renderers import AssistantMessage, ToolCall, items_from_message
from gym_ray.turn import Turn, VersionSpan
from tests.stored import sum_rollout, unplayed

#: What terminals, line-based readers and eyes can be fooled with.
HOSTILE = st.text(
    st.sampled_from(
        "\x1b\x9b\x07\x08\x7f\r\n\t\0\u202e\u2066\u200b\u2028\ufeff\U000e0041[]0;m Aé世👍"
    )
    | st.characters(),
    max_size=30,
)


def printed(rollout: Rollout, **options: Any) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        rollout.show(**options)
    return out.getvalue()


def tool_rollout(**fields: Any) -> Rollout:
    """Two turns: the first calls two tools, which answer in the other order; the second speaks."""
    first = AssistantMessage(
        "Let me see.",
        "It asks for a sum.",
        (ToolCall("a", "add", '{"x": 3}'), ToolCall("b", "look", '{"at": "it"}')),
    )
    items = [
        *items_from_message(first, item_id_prefix="r_0"),
        {"type": "function_call_output", "call_id": "b", "output": "seen\nit"},
        {"type": "function_call_output", "call_id": "a", "output": "6"},
        *items_from_message(AssistantMessage("It is 6."), item_id_prefix="r_1"),
    ]
    spans = (VersionSpan(0, 0, 4),)
    return sum_rollout(
        3,
        reply="",
        **{
            "prompt": json.dumps([{"role": "user", "content": "3 + 3 = ?"}]),
            "response": json.dumps(items),
            "tools": json.dumps([{"type": "function", "name": "add"}]),
            "turns": (
                Turn(10, 4, "stop", spans, 0.0, 0.5),
                Turn(20, 4, "length", spans, 0.0, 0.5),
            ),
            "turn_rewards": (0.25, 0.5),
            "reward": 0.75,
            "reward_components": {"right": 0.5, "short": 0.25},
            "metrics": {"calls": 2.0},
            **fields,
        },
    )


def test_a_rollout_is_shown_from_question_to_verdict() -> None:
    text = rollout_text(tool_rollout(), width=80, extract=lambda rollout: "6")

    head, rest = text.split("\n\n", 1)
    assert " ".join(head.split()).endswith("task 3, repeat 0 · completed · reward 0.75")
    assert rest == (
        "user\n"
        "  3 + 3 = ?\n\n"
        "assistant (turn 1, 4 tokens, stop, reward 0.25)\n"
        "  (thinks) It asks for a sum.\n"
        "  Let me see.\n"
        '  -> add({"x": 3})\n'
        "  <- 6\n"
        '  -> look({"at": "it"})\n'
        "  <- seen\n"
        "     it\n\n"
        "assistant (turn 2, 4 tokens, length, reward 0.5)\n"
        "  It is 6.\n\n"
        "verdict\n"
        "  reward           0.75 = 0.5 right + 0.25 short\n"
        "  extracted        6\n"
        "  expected_answer  6\n"
        "  metrics          calls 2\n"
        "  tokens           24, 8 of them sampled in 2 turns\n"
        "  tools            add\n"
        "  made by          agent single_turn, model m, 0 s"
    )


def test_a_failure_is_shown_with_its_reason_and_what_was_to_be_done() -> None:
    text = rollout_text(unplayed(4), width=80)

    assert "failed (policy_timeout)" in " ".join(text.split())
    assert "user (the task; nothing was said)\n  4 + 4 = ?" in text
    assert "  error            no answer\n  reward           none\n" in text


def test_a_row_that_is_no_task_is_shown_as_it_is() -> None:
    spec = dataclasses.replace(unplayed(4).spec, task='{"responses_create_params": [')
    text = rollout_text(dataclasses.replace(unplayed(4), spec=spec), width=80)

    assert '  {"responses_create_params": [' in text


@pytest.mark.parametrize(
    "stored", ["nonsense", "{}", '[{"type": "picture"}]', "[7]", "[" * 100_000]
)
def test_items_of_another_system_are_shown_as_they_are_stored(stored: str) -> None:
    rollout = tool_rollout(response=stored)

    assert "response (as it is stored: it " in rollout_text(rollout, width=80)
    with pytest.raises(ValueError, match=f"{rollout.spec.rollout_id}: its response cannot be read"):
        _ = rollout.messages


def test_results_stand_with_their_calls_whatever_their_ids() -> None:
    def call(name: str) -> dict[str, str]:
        return {"type": "function_call", "call_id": "same", "name": name, "arguments": "{}"}

    def result(output: str, call_id: str = "same") -> dict[str, str]:
        return {"type": "function_call_output", "call_id": call_id, "output": output}

    items = [
        result("early"),
        call("f"),
        call("g"),
        result("1"),
        result("2"),
        result("3"),
        call("h"),
    ]
    text = rollout_text(tool_rollout(response=json.dumps(items), turn_rewards=()), width=80)

    lines = [line.strip() for line in text.splitlines()]
    start, end = lines.index("tool (there is no call of this result)"), lines.index("verdict")
    assert [line for line in lines[start:end] if line and "assistant" not in line] == [
        "tool (there is no call of this result)",
        "<- early",
        *("-> f({})", "<- 1", "-> g({})", "<- 2"),
        "tool (there is no call of this result)",
        "<- 3",
        *("-> h({})", "<- (no result)"),
    ]


@given(HOSTILE, HOSTILE, st.integers(20, 90))
def test_no_text_steers_the_terminal_or_speaks_for_another(
    text: str, name: str, width: int
) -> None:
    def rollout_that_says(text: str, name: str) -> Rollout:
        said = AssistantMessage(text, text, (ToolCall(name, name, text),))
        items = [
            *items_from_message(said, item_id_prefix="r_0"),
            {"type": "function_call_output", "call_id": name, "output": text},
        ]
        rollout = tool_rollout(
            response=json.dumps(items),
            prompt=json.dumps([{"role": "user", "content": text}]),
            metrics={name: 1.0},
            reward_components={name: 0.75},
            status="failed",
            error_kind=FailureKind.POLICY_ERROR,
            error=text,
        )
        spec = dataclasses.replace(
            rollout.spec,
            environment=name,
            rollout_id=name,
            task=json.dumps({"expected_answer": text, name: text}),
        )
        return dataclasses.replace(rollout, spec=spec, agent=name, model=name)

    shown = printed(rollout_that_says(text, name), width=width)

    lines = shown.split("\n")
    assert all(character.isprintable() or character == " " or character.isspace()
               for line in lines for character in line)  # fmt: skip
    assert not set(shown) & set("\x1b\x9b\r\x08\x7f\u202e\u2066\u2028\x85\x0b\x0c\x1c")
    assert all(cells(line) <= width for line in lines)
    # Whoever speaks does so at the margin; what was said never stands there.
    margins = [line for line in lines if line and not line.startswith(" ")]
    plain = printed(rollout_that_says("word", "word"), width=width).split("\n")
    expected = [line for line in plain if line and not line.startswith(" ")]
    assert margins[-3:] == expected[-3:]


@given(HOSTILE)
def test_the_short_form_is_one_line_of_plain_text(text: str) -> None:
    spec = dataclasses.replace(sum_rollout(1, reply="2").spec, environment=text, rollout_id=text)
    short = repr(dataclasses.replace(sum_rollout(1, reply="2"), spec=spec))

    assert "\n" not in short
    assert len(short) < 600
    assert not set(short) & set("\x1b\x9b\r\u202e\u2028\x85")


def test_long_texts_are_shortened_and_say_so() -> None:
    long = "first\n" + "x" * 100_000 + "\n" * 5_000 + "last"
    rollout = tool_rollout(response=json.dumps([{"role": "assistant", "content": long}]))

    short = printed(rollout, width=80)
    assert "  first" in short
    assert "  last" in short
    assert "characters left out; show(whole=True) has them]" in " ".join(short.split())
    assert short.count("\n") < 150
    assert printed(rollout, width=80, whole=True).count("x") > 100_000


def test_output_that_cannot_hold_a_character_has_a_mark_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    dataclasses.replace(tool_rollout(), model="模型").show(width=80)
    out.flush()

    assert b"model \\u6a21\\u578b" in raw.getvalue()


def test_the_best_and_the_worst_are_those_of_the_task_with_the_widest_spread() -> None:
    dull = [sum_rollout(1, repeat, reply="no") for repeat in range(4)]
    telling = [
        *(sum_rollout(2, repeat, reply=reply) for repeat, reply in enumerate(["no", "4", "4"])),
        unplayed(2, 3),
    ]

    text = best_and_worst_text([*dull, *telling], width=80, extract=lambda rollout: rollout.text)

    head, best, worst = text.split("-" * 80)
    assert head.splitlines() == [
        "Task 2 of arithmetic: 4 rollouts, reward 0 to 1, mean 0.6667, 1 failed",
        "",
        "repeat  status                   reward  tokens  said",
        "0       completed                0       1       no",
        "1       completed                1       1       4",
        "2       completed                1       1       4",
        "3       failed (policy_timeout)  none    0       no answer",
        "",
    ]
    assert telling[1].spec.rollout_id in best
    assert "  extracted        4\n  expected_answer  4\n" in best
    assert telling[0].spec.rollout_id in worst
    assert "  extracted        no\n" in worst


@pytest.mark.parametrize("group", [[unplayed(2)], [sum_rollout(1, n, reply="x") for n in range(3)]])
def test_a_group_without_a_difference_is_shown_by_one(group: list[Rollout]) -> None:
    text = best_and_worst_text(group, width=80)

    assert text.count("rollout ") >= 1
    assert "One of them:" in text
    assert group[0].spec.rollout_id in text
    with pytest.raises(ValueError, match="no rollout"):
        best_and_worst_text([])


def test_an_extraction_that_fails_is_told_and_hides_nothing() -> None:
    def broken(rollout: Rollout) -> str:
        raise KeyError("letter")

    text = rollout_text(tool_rollout(), width=80, extract=broken)

    assert "extracted        not known, as this failed: KeyError: 'letter'" in text
    assert "expected_answer  6" in text


def test_messages_are_the_conversation_and_the_text_its_last_word() -> None:
    rollout = tool_rollout()

    assert [message["role"] for message in rollout.messages] == [
        *("user", "assistant", "tool", "tool", "assistant")
    ]
    assert rollout.messages[1]["reasoning_content"] == "It asks for a sum."
    assert rollout.messages[1]["tool_calls"][0]["function"] == {
        "name": "add",
        "arguments": '{"x": 3}',
    }
    assert rollout.messages[2] == {"role": "tool", "tool_call_id": "b", "content": "seen\nit"}
    assert rollout.text == rollout.messages[-1]["content"] == "It is 6."
    assert unplayed(1).text == ""
    assert unplayed(1).messages == []


def test_the_task_of_a_rollout_is_there_parsed() -> None:
    task = sum_rollout(3, reply="6").task

    assert (task["expected_answer"], task.task_index) == ("6", 3)
    spec = dataclasses.replace(unplayed(4).spec, task="no JSON")
    with pytest.raises(ValueError, match="its task row is no JSON object"):
        _ = dataclasses.replace(unplayed(4), spec=spec).task
