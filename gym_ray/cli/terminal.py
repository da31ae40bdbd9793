"""The terminal of a command that talks with a person, or the pipe in its place."""

from __future__ import annotations

import sys

_PROMPT = "> "


def is_shown() -> bool:
    """Whether what is typed is on the screen already."""
    return sys.stdin.isatty()


def say(line: str) -> None:
    """Tell a line at once, with codes for what the terminal's encoding has not."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def read_line() -> str:
    """A line that is typed or piped in, without its end.

    Raises:
        EOFError: there is none.
        KeyboardInterrupt: Ctrl-C.
    """
    if is_shown():
        print(_PROMPT, end="", flush=True)
    # Not input(), whose line editor does not notice a Ctrl-C that comes while it sets itself up.
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return line.decode(errors="replace").rstrip("\r\n")
