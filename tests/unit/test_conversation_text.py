"""A rollout in a terminal: readable, and nothing in it can act on the terminal or pose as ours."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gym_ray.authoring.conversation import item_lines, plain, rollout_lines, verdict_lines
from gym_ray.errors import FailureKind
from gym_ray.rollout import Rollout, RolloutSpec, failed_rollout

#: Control sequences, marks that turn text around, ends of lines that are none, halves of pairs.
HOSTILE = st.text(
    st.one_of(
        st.sampled_from("\x1b\x07\x9b\r\x08\x00\n\t\x7f\u202e\u2066\u200f\u2028\u2029\x85\ud800"),
        st.characters(exclude_categories=()),
    )
)
KINDS: list[Callable[[str], dict[str, Any]]] = [
    lambda text: {"role": "user", "content": text},
    lambda text: {"role": "assistant", "content": [{"type": "output_text", "text": text}]},
    lambda text: {"role": text, "content": text},
    lambda text: {"type": "function_call", "name": text, "arguments": text},
    lambda text: {"type": "function_call", "name": "f", "arguments": text, "status": "incomplete"},
    lambda text: {"type": "function_call_output", "output": text},
    lambda text: {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]},
]
SPEC = RolloutSpec("r", "t", 0, 0, "e", "f", 1, "{}")


#: C0 and C1 but line ends and tabs, direction marks and overrides, line separators, surrogates.
ACTING = frozenset(
    chr(code)
    for code in (
        *range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F),
        *range(0x2066, 0x206A), *range(0xD800, 0xE000),
    )
) - {"\n", "\t"}  # fmt: skip


def acts(text: str) -> bool:
    return not ACTING.isdisjoint(text)


@given(HOSTILE)
def test_no_text_reaches_the_terminal_as_a_control_sequence(text: str) -> None:
    shown = plain(text)

    assert not acts(shown)
    shown.encode()
    if text.isprintable() and text.isascii():
        assert shown == text


@given(HOSTILE, st.sampled_from(KINDS))
def test_what_others_wrote_is_indented_below_one_line_of_ours(
    text: str, kind: Callable[[str], dict[str, Any]]
) -> None:
    lines = list(item_lines(kind(text)))

    assert not any(acts(line) or "\n" in line for line in lines)
    assert all(line.startswith("  ") or not line for line in lines[1:])


@given(HOSTILE)
def test_why_there_is_no_verdict_is_one_line_whatever_it_says(text: str) -> None:
    failed = failed_rollout(SPEC, FailureKind.VERIFIER_ERROR, text, run_id="r")

    first, *others = verdict_lines(failed)

    assert first.startswith("no verdict: verifier_error:")
    assert not acts(first)
    assert "\n" not in first
    assert not others


def test_a_rollout_is_what_was_said_and_the_verdict_with_its_parts() -> None:
    rollout = Rollout(
        spec=SPEC,
        run_id="r",
        agent="tool_calling",
        model="m",
        status="truncated",
        truncation_reason="max_turns",
        reward=0.75,
        reward_components={"format": 0.25, "name": 0.5},
        metrics={"calls": 1},
        turn_rewards=(0.5, 0.25),
        prompt=json.dumps([{"role": "user", "content": "Put a jar\nthere."}]),
        response=json.dumps(
            [
                {"type": "function_call", "call_id": "c", "name": "put", "arguments": '{"n": 1}'},
                {"type": "function_call_output", "call_id": "c", "output": "There is 1."},
                {"role": "assistant", "content": [{"type": "output_text", "text": "x" * 30}]},
            ]
        ),
    )

    assert list(rollout_lines(rollout, characters=20)) == [
        "user",
        "  Put a jar",
        "  there.",
        "policy calls put",
        '  {"n": 1}',
        "tool",
        "  There is 1.",
        "policy",
        f"  {'x' * 20}… (30 characters)",
        "verdict: reward 0.75",
        "  components: format 0.25, name 0.5",
        "  metrics: calls 1",
        "  turns: 0.5, 0.25",
        "  cut short: max_turns",
    ]
