"""Text files of a run: what is in them, or one of three errors that say why not.

Nothing here answers for a file that is not there or not whole: whoever can do without it catches
`FileAbsent`, and says so to the user.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gym_ray.errors import FileAbsent, FileTorn, FileUnreadable, one_line


def stored_text(path: Path) -> str:
    """The text of a file.

    Raises:
        FileAbsent: it is not there.
        FileUnreadable: it cannot be read, or is no text.
    """
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise FileAbsent(f"{path}: no such file; restore it from a copy") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FileUnreadable(
            f"{path}: cannot be read ({one_line(error)}); make it readable, or restore it from a "
            "copy"
        ) from None


def stored_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileAbsent, FileUnreadable: see `stored_text`.
        FileTorn: no whole JSON object is in it.
    """
    try:
        found = json.loads(stored_text(path))
    except (ValueError, RecursionError) as error:
        raise FileTorn(
            f"{path}: no whole JSON ({one_line(error)}); restore it from a copy, or re-issue the "
            "command that wrote it"
        ) from None
    if not isinstance(found, dict):
        raise FileTorn(f"{path}: no JSON object; restore it from a copy")
    return found
