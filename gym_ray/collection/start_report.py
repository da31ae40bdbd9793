"""What is told while policy and environments start: what is being done, for how long, how long it
usually takes.

How long a start took is kept in the cache of this user, by engine and model. It is no more than a
hint for a person: a file that is not there or cannot be read tells nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

_REPORT_SECONDS = 10.0

#: Bytes of the end of a log in which an engine's progress is looked for.
_LOOKED_AT = 4096

#: How vLLM tells how much of the weights it has.
_LOADED = re.compile(r"Loading \w+ checkpoint shards: +(\d+)%")

#: Starts that are remembered.
_REMEMBERED = 100


class StartReport:
    """Tells of one start.

    Args:
        what: engine and model, as one text.
        log: file that the engine writes to.
        say: told, in one line each.
    """

    def __init__(self, what: str, log: Path, say: Callable[[str], None]) -> None:
        self._what = what
        self._log = log
        self._say = say
        self._began = self._reported = time.monotonic()
        self._doing = "policy and environments"
        self._usual = _remembered().get(what)

    def does(self, what: str) -> None:
        """Something else is being done."""
        self._doing = what
        self._report()

    def waits(self) -> None:
        """It is still being done; told now and then."""
        if time.monotonic() - self._reported > _REPORT_SECONDS:
            self._report()

    def is_up(self) -> None:
        """Remember how long it took."""
        seconds = time.monotonic() - self._began
        starts = {**_remembered(), self._what: round(seconds, 1)}
        with contextlib.suppress(OSError):
            _file().parent.mkdir(parents=True, exist_ok=True)
            partial = _file().with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(dict(list(starts.items())[-_REMEMBERED:])))
            partial.replace(_file())

    def _report(self) -> None:
        self._reported = time.monotonic()
        loaded = _LOADED.findall(_end_of(self._log))
        share = f" {loaded[-1]} %" if loaded and self._doing.startswith("loading") else ""
        usual = "" if self._usual is None else f"; usually up after {self._usual:.0f} s"
        self._say(f"{self._doing}{share} ({self._reported - self._began:.0f} s{usual})")


def _file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache, "gym-ray", "starts.json")


def _remembered() -> dict[str, float]:
    with contextlib.suppress(OSError, ValueError):
        starts = json.loads(_file().read_text())
        if isinstance(starts, dict):
            return {k: v for k, v in starts.items() if isinstance(v, int | float)}
    return {}


def _end_of(log: Path) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOOKED_AT))
        return file.read().decode(errors="replace")
    return ""
