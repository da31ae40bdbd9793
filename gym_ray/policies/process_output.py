"""What the processes below this one wrote before they died.

An engine's processes share their parent's standard output and error, which Ray keeps in files. When
one of them dies, the engine often knows only that it did; why, stands in those files.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal

from gym_ray.errors import one_line

#: No more than so much of the end of a file is read.
_LONGEST = 4 * 1024**2

#: Distinct errors told, at most. Those are the first and the last: the cause and what it came to.
_MOST = 3
_LONGEST_ERROR = 300

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
#: What vLLM puts before a line: the process, and the level, time and place of what is logged.
_PREFIX = re.compile(
    r"^(?:\([\w .=-]+ pid=\d+\) ?)?(?:([A-Z]+) \d\d-\d\d \d\d:\d\d:\d\d (?:\[[^\]]*\] ?)?)?"
)
#: The last line of a traceback.
_RAISED = re.compile(r"(?:[A-Za-z_]\w*\.)*\w*(?:Error|Exception|Interrupt|Exit)(?::? .*|:?)")
#: An exception quoted in something logged.
_QUOTED = re.compile(r"\b\w+(?:Error|Exception)\((['\"]).*\1,?\)")


def errors_in(text: str) -> list[str]:
    """The errors that the output of processes tells, each once, the first one first.

    Args:
        text: lines of several processes, with tracebacks and logged warnings among them.
    """
    found: dict[str, None] = {}
    for raw in _COLOR.sub("", text).splitlines():
        prefix = _PREFIX.match(raw)
        assert prefix is not None
        line = raw[prefix.end() :].rstrip()
        is_bad = prefix[1] in {"WARNING", "ERROR", "CRITICAL"}
        if (
            _RAISED.fullmatch(line)
            or line.startswith("Fatal Python error")
            or (is_bad and _QUOTED.search(line))
        ):
            found.setdefault(line[:_LONGEST_ERROR])
    errors = list(found)
    return errors if len(errors) <= _MOST else [errors[0], *errors[1 - _MOST :]]


#: How multiprocessing tells the end of a process that was killed.
_EXIT_BY_SIGNAL = re.compile(r"(?<=': )-(\d+)\b")


def _signal_name(match: re.Match[str]) -> str:
    try:
        return signal.Signals(int(match[1])).name
    except ValueError:
        return match[0]


class ProcessOutput:
    """What this process and those below it write from the making of this object on."""

    def __init__(self) -> None:
        # Only files can be read again: what goes to a terminal, a person sees.
        self._begins = {fd: os.fstat(fd).st_size for fd in (1, 2) if _is_file(fd)}

    def cause(self, error: Exception) -> str:
        """Why something failed that depends on those processes, and where all they wrote is.

        Args:
            error: what is known of it here; told when the processes wrote of no error.
        """
        files = {
            fd: os.readlink(f"/proc/self/fd/{fd}") for fd in sorted(self._begins, reverse=True)
        }
        for fd, path in files.items():
            if errors := errors_in(self._read(fd, self._begins[fd])):
                return f"{'; '.join(errors)} (all of it: {path})"
        known = _EXIT_BY_SIGNAL.sub(_signal_name, one_line(error))
        paths = " and ".join(dict.fromkeys(files.values()))
        if not paths:
            return known
        return f"{known}; none wrote an error, as one that is killed does not (all of it: {paths})"

    def _read(self, fd: int, begin: int) -> str:
        with contextlib.suppress(OSError), open(f"/proc/self/fd/{fd}", "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(begin, size - _LONGEST))
            return file.read().decode(errors="replace")
        return ""


def _is_file(fd: int) -> bool:
    with contextlib.suppress(OSError):
        return os.path.isfile(f"/proc/self/fd/{fd}")
    return False
