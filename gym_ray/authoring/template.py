"""`gym-ray env new`: the files of a new environment, complete and runnable as they are."""

from __future__ import annotations

import json
import keyword
import re
from pathlib import Path
from typing import Literal, get_args

from gym_ray.authoring.templates import game, single, tools
from gym_ray.errors import ConfigError

#: What a new environment may be: one reply, tools with a state, or a game.
TemplateName = Literal["single", "tools", "game"]

_TEMPLATES = {"single": single.TEMPLATE, "tools": tools.TEMPLATE, "game": game.TEMPLATE}


def create_environment(
    name: str, directory: Path, template: TemplateName | str = "single"
) -> list[Path]:
    """Write a new environment below `directory`.

    Args:
        name: of the environment and its folder: a Python identifier in lower case.
        directory: where the folder is made.
        template: what it is at first.

    Returns:
        The files written.

    Raises:
        ConfigError: the name cannot be used, there is such a folder already, or no such template.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(
            f"environment name {name!r}: write a Python identifier in lower case, e.g. my_task"
        )
    if template not in _TEMPLATES:
        known = ", ".join(get_args(TemplateName))
        raise ConfigError(f"there is no template {template!r}; templates: {known}")
    folder = directory / name
    if folder.exists():
        raise ConfigError(f"{folder} is there already; choose another name or remove it")
    files = _TEMPLATES[template]
    words = {
        "name": name,
        "title": name.replace("_", " ").capitalize(),
        "class_name": _class_name(name, files.code.template),
        "folder": folder.as_posix(),
    }
    texts = {
        "__init__.py": files.code.substitute(words),
        "config.yaml": files.config.substitute(words),
        "scripted.yaml": files.scripted.substitute(words),
        "README.md": files.readme.substitute(words),
        "data/example.jsonl": "".join(json.dumps(row) + "\n" for row in files.rows),
    }
    for relative, text in texts.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [folder / relative for relative in texts]


def _class_name(name: str, code: str) -> str:
    """A name for the class that means nothing else in the code."""
    class_name = "".join(part.capitalize() for part in name.split("_"))
    is_taken = re.search(rf"\b{class_name}\b", code)
    return f"{class_name}Environment" if is_taken else class_name
