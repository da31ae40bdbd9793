"""Whether this user wrote a file here, or it came from elsewhere.

A run's `run.yaml` names code: environments, verifiers, a folder to find them in. Whoever hands a
dataset over writes that file, so it is data until the user says otherwise. What commands write on
this machine carries a mark made with a key that never leaves it, and a copy that was changed does
not have it.

Covered: a dataset by anyone without the key, however it came here. Not covered: whoever can read
the user's own files, and code that an unchanged `run.yaml` names and that was changed since.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

_KEY_BYTES = 32


def mark_of(text: str) -> str | None:
    """The mark of a text that is written here; None where the user's folder cannot keep a key."""
    key = _key()
    return None if key is None else hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def is_ours(text: str, mark: object) -> bool:
    """Whether the mark is this user's, of this very text."""
    own = mark_of(text)
    return own is not None and isinstance(mark, str) and hmac.compare_digest(own, mark)


def _key() -> bytes | None:
    try:
        file = Path.home() / ".cache" / "gym_ray" / "origin.key"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            _create(file)
        key = file.read_bytes()
    except (OSError, RuntimeError):  # no home folder, or a read-only one
        return None
    return key if len(key) == _KEY_BYTES else None


def _create(file: Path) -> None:
    """Whole or not at all, and once, however many processes begin at the same time."""
    draft = file.with_name(f"{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(_KEY_BYTES))
        os.fsync(descriptor)
        if not file.exists():
            os.link(draft, file)
    except FileExistsError:
        pass
    finally:
        os.close(descriptor)
        draft.unlink()
