"""A driver that is ended without a word leaves one behind, and any other does not."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
from gym_ray.serving.last_words import LastWords
words = LastWords()
{deed}
"""


@pytest.mark.parametrize(
    ("deed", "is_told"),
    [
        ("os._exit(1)", True),
        ("os.kill(os.getpid(), signal.SIGKILL)", True),
        ("words.unsaid(); os._exit(1)", False),
        ("words.unsaid(); words.unsaid(); sys.exit(3)", False),
    ],
)
def test_what_ends_without_a_word_is_told_what_to_do(deed: str, is_told: bool) -> None:
    # Standard error ends when the last one who can speak has: nothing is left waiting.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(deed=deed)], capture_output=True, timeout=60
    )
    assert (b"re-issue the same command" in done.stderr) == is_told
    assert done.stderr.startswith(b"gym-ray:") == is_told
