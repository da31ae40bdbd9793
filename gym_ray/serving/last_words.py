"""What is said when this process ends without saying anything.

Ray ends a driver on the spot when its node or its control service is gone, from C++, with lines of
its own: no handler of Python's runs. So a shell waits beside the process, and speaks when its pipe
closes without a word.
"""

from __future__ import annotations

import contextlib
import subprocess

_WORDS = (
    "gym-ray: Ray, or this process, was ended from outside. What was collected is kept: re-issue "
    "the same command to continue"
)


class LastWords:
    """Waits from here on; silent once `unsaid` was called."""

    def __init__(self) -> None:
        self._waiting: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):  # a system without a shell has none
            self._waiting = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r _ || echo "$1" >&2', "sh", _WORDS],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is not meant for it
            )

    def unsaid(self) -> None:
        """This process ends, or goes on, in its own words."""
        if self._waiting is not None:
            with contextlib.suppress(OSError):
                self._waiting.communicate(b"\n")
            self._waiting = None
