"""A policy that is the person at the terminal, or the lines of a pipe.

A turn is a line; one that ends in a backslash goes on in the next. Lines that begin with `/` mean
something: `help_lines` says what.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Sequence

from gym_ray.authoring.conversation import plain
from gym_ray.authoring.given import call_text, spoken
from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.engine import GenerationRequest
from gym_ray.turn import Generation

#: Reads a line, without its end; raises `EOFError` where there is none, and `KeyboardInterrupt`.
Read = Callable[[], str]


class Refused(ValueError):
    """What was typed is no turn."""


def help_lines(tools: Sequence[str]) -> list[str]:
    """What may be typed, where these tools are offered."""
    calls = ['  /call NAME {"argument": 1}  call a tool'] if tools else []
    return [
        "a line is your turn; end it with \\ to go on in the next line",
        *calls,
        "  /quit                       end without a verdict (Ctrl-D, Ctrl-C)",
        "  //text                      a turn that begins with /",
    ]


class Person:
    """Takes the policy's turns.

    Args:
        read: reads a line.
        say: tells a line.
        tools: names of the tools that are offered.

    Attributes:
        turns: how many were taken.
        ended: how the person ended the rollout; None where it goes on.
    """

    def __init__(self, read: Read, say: Callable[[str], None], tools: Sequence[str]) -> None:
        self.turns = 0
        self.ended: type[BaseException] | None = None
        self._read = read
        self._say = say
        self._tools = tools

    async def generate(self, request: GenerationRequest) -> Generation:
        """One turn. Nothing else of the rollout goes on meanwhile.

        Raises:
            RolloutFailure: `cancelled`: the person ended the rollout.
        """
        while True:
            try:
                with _interruptible():
                    text = turn_of(self._lines(), self._tools)
            except Refused as refused:
                self._say(plain(str(refused)))
            except (EOFError, KeyboardInterrupt) as ended:
                self.ended = type(ended)
                raise RolloutFailure(FailureKind.CANCELLED, "ended at the terminal") from None
            else:
                self.turns += 1
                return spoken(text, request)

    def _lines(self) -> list[str]:
        lines = [self._read()]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self._read())
        return lines


def turn_of(lines: Sequence[str], tools: Sequence[str]) -> str:
    """What was typed, as a ChatML model writes it: the text, then the calls.

    Args:
        lines: of one turn.
        tools: names of the tools that are offered.

    Raises:
        Refused: it is no turn; says what to type instead.
        EOFError: it asks for the end.
    """
    texts, calls = [], []
    for line in lines:
        command, _, rest = line.strip().partition(" ")
        if command == "/quit":
            raise EOFError
        if command == "/call":
            calls.append(_call(rest, tools))
        elif command.startswith("/") and not command.startswith("//"):
            raise Refused("\n".join([f"there is no {command}", *help_lines(tools)]))
        else:
            texts.append(line[1:] if line.startswith("//") else line)
    text = "\n".join(texts)
    if not calls and not text.strip():
        raise Refused("\n".join(help_lines(tools)))
    return "\n".join(filter(None, [text, *calls]))


def _call(text: str, tools: Sequence[str]) -> str:
    name, _, given = text.strip().partition(" ")
    if not tools:
        raise Refused("no tools are offered here; answer with a text")
    if not name:
        raise Refused(f'write /call NAME {{"argument": 1}}, with one of {", ".join(tools)}')
    try:
        arguments = json.loads(given.strip() or "{}")
    except ValueError as error:
        raise Refused(f"the arguments are not JSON ({error}): {given.strip()}") from None
    if not isinstance(arguments, dict):
        raise Refused('the arguments are no JSON object, such as {"argument": 1}')
    return call_text(name, arguments)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends what is being read, where an event loop would wait for the line's end."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
