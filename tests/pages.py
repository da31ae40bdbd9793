"""Blocks of docs/environments.md, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "environments.md").read_text()


def blocks(language: str | None) -> list[str]:
    """Fenced blocks of a language; the whole page for None."""
    return [PAGE] if language is None else re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def write_files(folder: Path) -> None:
    """Write every file the page shows: blocks whose first line is a comment with its name."""
    named = [(block.split("\n")[0].removeprefix("# "), block) for block in blocks("python")]
    named += [(block.split("\n")[0].removeprefix("# "), block) for block in blocks("yaml")]
    named += [("pantry/data/example.jsonl", block) for block in blocks("json")]
    assert len({name for name, _ in named}) == len(named) == 7
    for name, text in named:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
