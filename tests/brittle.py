"""Replies for scripted weights that fail to load on one replica, the first that tries.

`tests.brittle:once_HEX`, with the path of a file that is not there yet in hexadecimal.
"""

import os
from collections.abc import Callable
from pathlib import Path

from gym_ray.policies.engine import GenerationRequest
from tests.replies import right_sum


def once(marker: Path) -> str:
    """The reply that fails once, and makes the file."""
    return f"tests.brittle:once_{str(marker).encode().hex()}"


def __getattr__(name: str) -> Callable[[str, GenerationRequest], str]:
    if not name.startswith("once_"):
        raise AttributeError(name)
    marker = bytes.fromhex(name.removeprefix("once_")).decode()
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return right_sum
    raise OSError("the disk is broken")
