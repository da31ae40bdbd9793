"""Log files of commands: what a command said, and the tracebacks of its errors.

That of a run is in its directory, so that it is found beside what went wrong; processes of this
machine that run rollouts write to the same file. It is bounded, by forgetting its beginning, and a
command never fails because its log cannot be written.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import os
import platform
import shlex
import sys
import traceback
from pathlib import Path
from types import TracebackType

from gym_ray.config.secret_values import covered_argument
from gym_ray.errors import without_secrets
from gym_ray.store.places import is_remote

LOG_FILE = "log.txt"

#: A longer file is cut to the last so many bytes.
MOST_BYTES = 16 * 1024 * 1024
KEPT_BYTES = 4 * 1024 * 1024

_NOTE = "log: "

#: Files in the folder of logs that have no run directory to be in; older ones go.
_FILES = 50


class LogFile:
    """The log of one command, used as a context: an error that leaves it is written with its
    traceback, and has the path as a note.

    Args:
        path: the file; lines are added at its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> LogFile:
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.parent == _folder():
                _remove_old(self.path.parent)
            self.path.touch()
        version = importlib.metadata.version("gym-ray")
        self.write(f"$ {command_line()}  (gym-ray {version}, Python {platform.python_version()})")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Of a run that never began nothing is left, so that there is no file to write to either.
        if error is not None and self.path.exists():
            self.failed(error)

    def write(self, text: str) -> None:
        """Add a line with the time of day, without secrets. A file that is gone stays gone."""
        moment = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
        with contextlib.suppress(OSError):
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            with open(fd, "ab") as file:
                line = f"{moment} {without_secrets(text)}\n"
                file.write(line.encode("utf-8", "backslashreplace"))
            self.trim()

    def failed(self, error: BaseException) -> None:
        """Write an error with its traceback, and note on it where that is."""
        self.write("".join(traceback.format_exception(error)).rstrip())
        note_log(error, self.path)

    def trim(self) -> None:
        """Forget the beginning of a file that has become too long.

        Others may be writing to it. What they add meanwhile may be lost, and nothing else.
        """
        with contextlib.suppress(OSError), self.path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size <= MOST_BYTES:
                return
            file.seek(size - KEPT_BYTES)
            kept = file.read(KEPT_BYTES).partition(b"\n")[2]
            file.truncate(0)
            # At the end, wherever that is by now: others append.
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            with open(fd, "ab") as end:
                end.write(b"(the beginning is forgotten)\n" + kept)


def log_of(directory: Path) -> Path:
    """The log of a run: in its directory, or in this user's cache where that is in an object
    store.
    """
    if not is_remote(directory):
        return directory / LOG_FILE
    digest = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
    return _folder() / f"{directory.name}-{digest}.txt"


def log_of_command(name: str) -> Path:
    """The log of a command that has no run directory, in this user's cache."""
    return _folder() / f"{name}.txt"


def note_log(error: BaseException, path: Path) -> None:
    """Note on an error where more is told of it, if there is such a file."""
    if path.exists():
        error.add_note(f"{_NOTE}{path}")


def noted_log(error: BaseException) -> str | None:
    """What `note_log` noted."""
    notes = getattr(error, "__notes__", ())
    return next((note for note in notes if note.startswith(_NOTE)), None)


def command_line() -> str:
    """What this process was started as, with every secret covered."""
    program = Path(sys.argv[0]).name
    if program not in ("gym-ray", "__main__.py"):
        return f"{program or 'python'} (gym_ray)"
    return shlex.join(["gym-ray", *map(covered_argument, sys.argv[1:])])


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache, "gym-ray", "logs")


def _remove_old(folder: Path) -> None:
    def age(path: Path) -> float:
        return path.stat().st_mtime

    for path in sorted(folder.glob("*.txt"), key=age, reverse=True)[_FILES - 1 :]:
        path.unlink(missing_ok=True)
