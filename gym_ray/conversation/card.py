"""The card of a rollout: what of it a person is shown, in order; the same for every layout.

Everything on a card is already plain (`plain_text.py`); layouts only place it, and never cut what
they do not say they cut.
"""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

from gym_ray.conversation.items import Message, messages_of_json
from gym_ray.conversation.plain_text import plain, plain_line
from gym_ray.turn import Turn

#: Fields of a task row that are shown beside the verdict; the first is what an answer is held
#: against in most environments.
_EXPECTED = "expected_answer"
_MOST_FIELDS = 12

Kind = Literal["text", "reasoning", "call", "result"]


class ShownSpec(Protocol):
    """What of a `RolloutSpec` is shown."""

    @property
    def rollout_id(self) -> str: ...
    @property
    def task_index(self) -> int: ...
    @property
    def rollout_index(self) -> int: ...
    @property
    def environment(self) -> str: ...
    @property
    def task_id(self) -> str: ...
    @property
    def task(self) -> str: ...


class Shown(Protocol):
    """What of a `Rollout` is shown. `Rollout` itself stands above this room, as it uses it."""

    @property
    def spec(self) -> ShownSpec: ...
    @property
    def agent(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def truncation_reason(self) -> str | None: ...
    @property
    def reward(self) -> float | None: ...
    @property
    def reward_components(self) -> Mapping[str, float]: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def turn_rewards(self) -> Sequence[float]: ...
    @property
    def turns(self) -> Sequence[Turn]: ...
    @property
    def side_branches(self) -> Sequence[object]: ...
    @property
    def sampled_tokens(self) -> int: ...
    @property
    def prompt(self) -> str: ...
    @property
    def response(self) -> str: ...
    @property
    def tools(self) -> str: ...
    @property
    def attempts(self) -> int: ...
    @property
    def error_kind(self) -> str | None: ...
    @property
    def error(self) -> str | None: ...
    @property
    def seconds(self) -> float: ...


S = TypeVar("S", bound=Shown)

#: Says what of a rollout's reply counts as its answer, such as `environment.answer` does; None
#: where it states none.
Extract = Callable[[S], str | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """A piece of what was said.

    Attributes:
        kind: `text`, `reasoning`, a tool `call`, or its `result`.
        text: the piece.
    """

    kind: Kind
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Speech:
    """What one speaker said before the next one spoke: of a policy, a turn with its tools' results.

    Attributes:
        who: `system`, `user`, `assistant` or `tool`.
        note: facts about it, on one line; may be empty.
        passages: in order; the result of a call stands after it.
    """

    who: str
    note: str
    passages: tuple[Passage, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """A rollout as a person reads it.

    Attributes:
        title: which rollout it is and how it ended, on one line.
        speeches: the conversation.
        facts: the verdict and what belongs beside it: names and values, each on one line.
    """

    title: str
    speeches: tuple[Speech, ...]
    facts: tuple[tuple[str, str], ...]


def card_of(rollout: S, extract: Extract[S] | None = None) -> Card:
    """The card of a rollout, whatever its texts hold.

    Args:
        rollout: the rollout.
        extract: see there; without it the card does not say what counted as the answer.
    """
    return Card(title_of(rollout), tuple(_speeches(rollout)), tuple(_facts(rollout, extract)))


def title_of(rollout: Shown) -> str:
    """Which rollout it is and how it ended."""
    spec = rollout.spec
    where = f"{plain_line(spec.environment or '(none)')}, task {spec.task_index}"
    parts = [
        f"rollout {plain_line(spec.rollout_id)}",
        f"{where}, repeat {spec.rollout_index}",
        ended(rollout),
    ]
    if rollout.reward is not None:
        parts.append(f"reward {rollout.reward:g}")
    return " · ".join(parts)


def ended(rollout: Shown) -> str:
    """Its status, and why: `completed`, `truncated (length)`, `failed (policy_timeout)`."""
    reason = rollout.error_kind or rollout.truncation_reason
    return rollout.status if reason is None else f"{rollout.status} ({reason})"


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 turn`, `2 turns`, `1,234 tokens`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _speeches(rollout: Shown) -> Iterator[Speech]:
    try:
        asked, said = messages_of_json(rollout.prompt), messages_of_json(rollout.response)
    except ValueError as error:
        yield _as_stored("prompt", rollout.prompt, error)
        yield _as_stored("response", rollout.response, error)
        return
    if not asked:
        yield from _task(rollout.spec.task, "" if said else "the task; nothing was said")
    notes = _turn_notes(rollout)
    if _turns_in(said) != len(notes):  # such as a turn that was cut before it said anything
        notes = [""] * _turns_in(said)
    yield from _conversation([*asked, *said], [""] * _turns_in(asked) + notes)


def _turns_in(messages: Sequence[Message]) -> int:
    return sum(message["role"] == "assistant" for message in messages)


def _conversation(messages: Sequence[Message], notes: Sequence[str]) -> Iterator[Speech]:
    """Messages as speeches.

    Args:
        messages: in order.
        notes: one for each message of the policy.
    """
    results = _results(messages)
    shown_with_their_call = set(results.values())
    left = iter(notes)
    for position, message in enumerate(messages):
        who = plain_line(message["role"])
        if message["role"] == "tool":
            if position not in shown_with_their_call:
                result = _passage("result", message["content"])
                yield Speech(who, "there is no call of this result", (result,))
            continue
        answers = {
            call: messages[results[position, call]]["content"]
            for call in range(len(message.get("tool_calls") or ()))
            if (position, call) in results
        }
        note = next(left) if message["role"] == "assistant" else ""
        yield Speech(who, note, tuple(_passages(message, answers)))


def _results(messages: Sequence[Message]) -> dict[tuple[int, int], int]:
    """Which message is the result of which call, a call being the n-th of a message.

    IDs may be there again; a result is of the first open call of its ID before it.
    """
    waiting: dict[str, deque[tuple[int, int]]] = {}
    found: dict[tuple[int, int], int] = {}
    for position, message in enumerate(messages):
        if message["role"] == "tool":
            if calls := waiting.get(message["tool_call_id"]):
                found[calls.popleft()] = position
            continue
        for number, call in enumerate(message.get("tool_calls") or ()):
            waiting.setdefault(call["id"], deque()).append((position, number))
    return found


def _passages(message: Message, answers: Mapping[int, str]) -> Iterator[Passage]:
    reasoning, calls = message.get("reasoning_content"), message.get("tool_calls") or ()
    if reasoning:
        yield _passage("reasoning", reasoning)
    if message["content"] or not (calls or reasoning):
        yield _passage("text", message["content"] or "(nothing)")
    for number, call in enumerate(calls):
        function = call["function"]
        yield _passage("call", f"{function['name'] or '(no name)'}({function['arguments']})")
        yield _passage("result", answers.get(number, "(no result)"))


def _passage(kind: Kind, text: str) -> Passage:
    return Passage(kind, plain(text).strip("\n"))


def _as_stored(name: str, text: str, error: ValueError) -> Speech:
    note = f"as it is stored: it {plain_line(error)}"
    return Speech(name, note, (_passage("text", text),))


def _task(task: str, note: str) -> Iterator[Speech]:
    """What a task row asks, for a rollout that has no prompt: it failed before it was asked."""
    try:
        given = json.loads(task)["responses_create_params"]["input"]
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        messages = messages_of_json(json.dumps(items))
    except (ValueError, LookupError, TypeError, RecursionError):
        messages = [{"role": "user", "content": task}] if task else []
    for message in messages:
        if message["role"] != "tool":
            passages = tuple(_passages(message, {}))
            yield Speech(plain_line(message["role"]), note, passages)


def _turn_notes(rollout: Shown) -> list[str]:
    notes = []
    rewards = rollout.turn_rewards
    for number, turn in enumerate(rollout.turns, start=1):
        parts = [f"turn {number}", counted(turn.generation_length, "token"), turn.stop_reason]
        if number <= len(rewards):
            parts.append(f"reward {rewards[number - 1]:g}")
        notes.append(", ".join(parts))
    return notes


def _facts(rollout: S, extract: Extract[S] | None) -> Iterator[tuple[str, str]]:
    if rollout.error:
        yield "error", plain_line(rollout.error, 500)
    yield "reward", _reward(rollout)
    if extract is not None and rollout.reward is not None:
        yield "extracted", _extracted(rollout, extract)
    yield from _task_fields(rollout.spec.task)
    if rollout.metrics:
        yield "metrics", ", ".join(f"{plain_line(k)} {v:g}" for k, v in rollout.metrics.items())
    yield "tokens", _tokens(rollout)
    if names := _tool_names(rollout.tools):
        yield "tools", ", ".join(names)
    yield "made by", _made_by(rollout)
    if rollout.side_branches:
        branches = counted(len(rollout.side_branches), "branch", "branches")
        yield "not shown", f"{branches}: edited histories, or conversations beside the task's"


def _reward(rollout: Shown) -> str:
    if rollout.reward is None:
        return "none"
    parts = " + ".join(f"{v:g} {plain_line(k)}" for k, v in rollout.reward_components.items())
    return f"{rollout.reward:g}" + f" = {parts}" * bool(parts)


def _extracted(rollout: S, extract: Extract[S]) -> str:
    try:
        answer = extract(rollout)
    except Exception as error:  # code of an environment's author; what it makes of it is no matter
        return f"not known, as this failed: {plain_line(f'{type(error).__name__}: {error}')}"
    return "nothing" if answer is None else plain_line(answer)


def _task_fields(task: str) -> Iterator[tuple[str, str]]:
    """The task's own fields: what its verifier held the reply against."""
    try:
        row = json.loads(task)
    except (ValueError, RecursionError):
        return
    if not isinstance(row, dict):
        return
    not_its_own = ("responses_create_params", "agent_ref")
    names = [name for name in row if name not in not_its_own and not name.startswith("_")]
    names.sort(key=lambda name: name != _EXPECTED)
    for name in names[:_MOST_FIELDS]:
        value = row[name]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield plain_line(name, 40), plain_line(text)
    if len(names) > _MOST_FIELDS:
        yield "…", f"{counted(len(names) - _MOST_FIELDS, 'field')} more in the task row"


def _tokens(rollout: Shown) -> str:
    if not rollout.turns:
        return "none"
    last = rollout.turns[-1]
    total = last.prompt_length + last.generation_length
    turns = counted(len(rollout.turns), "turn")
    return f"{total:,}, {rollout.sampled_tokens:,} of them sampled in {turns}"


def _tool_names(tools: str) -> list[str]:
    try:
        found = json.loads(tools)
        return [plain_line(tool["name"], 60) for tool in found]
    except (ValueError, LookupError, TypeError, RecursionError):
        return []


def _made_by(rollout: Shown) -> str:
    parts = [f"agent {plain_line(rollout.agent or '(none)')}"]
    if rollout.model:
        parts.append(f"model {plain_line(rollout.model)}")
    parts.append(f"{rollout.seconds:.3g} s")
    if rollout.attempts > 1:
        parts.append(f"attempt {rollout.attempts}")
    return ", ".join(parts)
