"""Which messages are the same message: the one definition, for every way a history comes back.

Clients keep a conversation in shapes of their own and spell it anew for every call. What they did
not change has to be told from what they did: the former is continued from its tokens, the latter
is a branch. So a conversation is read as pieces (a text with its reasoning, a call, the output of
a call), and pieces are compared by what they say:

- Arguments are equal as JSON values: key order, blanks and escapes do not matter, and `1.0` is
  `1`. Numbers beyond 2**53 are equal as doubles, which is all that most clients have of them.
- Text is equal up to blanks at its ends, and blank is none.
- Reasoning is equal up to blanks, left out (most clients cannot send it back), or stands before
  the text in the markup of the model's family or in `<think>`.
- An output answers a call by that call's place in the conversation, not by its ID.
- Calls and outputs between two texts may stand in any order that keeps each output behind its
  call and the calls in theirs. What answers no call, or one that had its answer, keeps its place.

Names of the assistant and of tools' results do not matter. Everything else is an edit.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

from gym_ray.renderers.messages import Message
from gym_ray.renderers.renderer import RolloutRenderer

#: Beyond it not every integer is a double.
_EXACT_DOUBLES = 2**53

#: What clients write where a model's family has no markup of its own.
_COMMON_MARKUP = ("<think>", "</think>")


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Something a message says.

    Attributes:
        kind: `text` and `call` are the assistant's, `output` is a call's, `told` is all else.
        key: equal for pieces of one kind that say the same, reasoning apart.
        message: number of the message it is from.
        text: of a text, without blanks at its ends.
        reasoning: what a text has before it; None without.
        answers: of an output, the number of the call it answers, counted from the conversation's
            beginning; None when no call has its ID.
        has_place: of an output, whether it has to stand where it stands.
        call_id: of a call.
        is_system: whether it is a system message.
    """

    kind: Literal["told", "text", "call", "output"]
    key: Hashable
    message: int
    text: str = ""
    reasoning: str | None = None
    answers: int | None = None
    has_place: bool = False
    call_id: str | None = None
    is_system: bool = False

    @property
    def is_blank(self) -> bool:
        """Whether it is a text that says nothing."""
        return self.kind == "text" and not self.text and self.reasoning is None


def pieces_of(messages: Sequence[Message]) -> tuple[Piece, ...]:
    """A conversation in pieces, at least one for each message."""
    pieces: list[Piece] = []
    calls = _Calls()
    key: Hashable
    for number, message in enumerate(messages):
        match message["role"]:
            case "assistant":
                pieces += _said(message, number, calls)
            case "tool":
                call_id = message.get("tool_call_id")
                has_place = not calls.wait_for(call_id)
                answers = calls.answered_by(call_id)
                whose = (call_id, message.get("name")) if answers is None else answers
                key = (whose, text_of(message.get("content")))
                pieces.append(Piece("output", key, number, answers=answers, has_place=has_place))
            case role:
                key = (role, text_of(message.get("content")), message.get("name"))
                pieces.append(Piece("told", key, number, is_system=role == "system"))
    return tuple(pieces)


def text_of(content: Any) -> str:
    """Text of a message's content; content that is not text alone by its JSON."""
    if content is None or isinstance(content, str):
        return (content or "").strip()
    if all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(part["text"] for part in content).strip()
    return json.dumps(content, sort_keys=True)


def value_of(value: Any) -> Hashable:
    """A JSON value in a form that is equal where the values are."""
    match value:
        case bool() | None:
            return ("constant", value)  # Python takes 1 and True for equal.
        case int() if abs(value) > _EXACT_DOUBLES:
            try:
                return float(value)
            except OverflowError:
                return value
        case Mapping():
            return frozenset((name, value_of(member)) for name, member in value.items())
        case list() | tuple():
            return tuple(value_of(member) for member in value)
        case _:
            return ("text", value) if isinstance(value, str) else _number(value)


def same_text(texts: Sequence[Piece], text: Piece, markups: Sequence[tuple[str, str]] = ()) -> bool:
    """Whether pieces of text, one after the other, are a text with its reasoning.

    Args:
        texts: as they came back.
        text: as it was.
        markups: what may begin and end reasoning that stands in the text.
    """
    thoughts = [piece.reasoning for piece in texts if piece.reasoning is not None]
    if thoughts and "\n".join(thoughts) != text.reasoning:
        return False
    written = "\n".join(piece.text for piece in texts).strip()
    return written == text.text or any(
        _without_reasoning(written, markup, text.reasoning or "") == text.text for markup in markups
    )


@functools.lru_cache(maxsize=8)
def markups_of(renderer: RolloutRenderer) -> tuple[tuple[str, str], ...]:
    """What begins and ends reasoning in the text of a model's family, and what clients write
    where they do not know the family.
    """
    thought, answer = "The thought.", "The answer."
    question: Message = {"role": "user", "content": "?"}
    said = {"role": "assistant", "content": answer, "reasoning_content": thought}
    try:
        opened = renderer.decode(renderer.render([question]))
        whole = renderer.decode(renderer.render_closed([question, said]))
    except Exception:  # A family may refuse any messages: then it has no markup to be known.
        return (_COMMON_MARKUP,)
    before, found, after = whole.partition(thought)
    between = after.partition(answer)[0].strip()
    shared = next(
        (i for i, (one, other) in enumerate(zip(opened, before, strict=False)) if one != other),
        min(len(opened), len(before)),
    )
    own = (before[shared:].strip(), between)
    if not found or not all(own) or own == _COMMON_MARKUP:
        return (_COMMON_MARKUP,)
    return (_COMMON_MARKUP, own)


class _Calls:
    """The calls of a conversation so far, to find those that outputs answer."""

    def __init__(self) -> None:
        self._count = 0
        #: By ID, those without an output.
        self._open: dict[Any, list[int]] = {}
        self._answered: dict[Any, int] = {}

    def add(self, call_id: Any) -> None:
        self._open.setdefault(call_id, []).append(self._count)
        self._count += 1

    def wait_for(self, call_id: Any) -> bool:
        """Whether a call of this ID has no answer yet."""
        return bool(self._open.get(call_id))

    def answered_by(self, call_id: Any) -> int | None:
        """Number of the call an output of this ID answers: the first without an answer."""
        numbers = self._open.get(call_id)
        if numbers:
            self._answered[call_id] = numbers.pop(0)
        return self._answered.get(call_id)


def _said(message: Message, number: int, calls: _Calls) -> list[Piece]:
    text = text_of(message.get("content"))
    reasoning = (message.get("reasoning_content") or "").strip() or None
    made = message.get("tool_calls") or ()
    pieces: list[Piece] = []
    if text or reasoning or not made:
        pieces.append(Piece("text", text, number, text, reasoning))
    for call in made:
        calls.add(call.get("id"))
        key = _call(call.get("function") or call)
        pieces.append(Piece("call", key, number, call_id=_id_of(call.get("id"))))
    return pieces


def _call(function: Mapping[str, Any]) -> tuple[Any, Hashable]:
    return function.get("name"), _arguments(function.get("arguments"))


def _arguments(arguments: Any) -> Hashable:
    """Arguments by value; text that is no JSON by itself, or as a string of JSON."""
    if not isinstance(arguments, str):
        return value_of({} if arguments is None else arguments)
    text = arguments.strip()
    try:
        value = json.loads(text) if text else {}
        return _arguments(value) if isinstance(value, str) else value_of(value)
    except (ValueError, RecursionError):
        return ("not JSON", text)


def _id_of(call_id: Any) -> str | None:
    return None if call_id is None else str(call_id)


def _number(value: Any) -> Hashable:
    return "not a number" if value != value else value


def _without_reasoning(text: str, markup: tuple[str, str], reasoning: str) -> str | None:
    """`text` without the reasoning that stands before it; None when that is not there."""
    opening, closing = markup
    for expected in (opening, reasoning, closing):
        if not text.startswith(expected):
            return None
        text = text[len(expected) :].lstrip()
    return text
