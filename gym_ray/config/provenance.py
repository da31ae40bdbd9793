"""Where the value of every key of a config came from: a line of the file, the command line, the
objective, or the default.

What is shown tells no secret: what an environment variable holds stands as the reference that was
written, and a literal secret is covered.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gym_ray.config.load import load_config, resolve
from gym_ray.config.secret_values import secret_settings
from gym_ray.errors import ConfigError

COMMAND_LINE = "command line"
DEFAULT = "default"

#: Stands where a literal secret does.
COVERED = "***"

#: Stands for what an environment variable holds while references are followed.
_FROM_VARIABLE = "\ue000"

_Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One value of a resolved config.

    Attributes:
        path: names of its sections, and its own.
        value: what it is; a reference to an environment variable as it was written.
        origin: `FILE:LINE`, `command line`, `objective NAME` or `default`.
        written: the reference that `value` was looked up by, if any.
    """

    path: tuple[str, ...]
    value: Any
    origin: str
    written: str | None = None

    @property
    def key(self) -> str:
        return ".".join(self.path)


def settings_of(file: Path, overrides: Sequence[str] = ()) -> list[Setting]:
    """Every value of a config, section by section.

    Args:
        file: YAML file.
        overrides: dotted assignments over it.

    Raises:
        ConfigError: see `load_config`.
    """
    config = load_config(file, overrides)
    origins = _origins(file, overrides)
    for key in config.from_objective:
        origins[tuple(key.split("."))] = f"objective {config.collect.objective}"
    tree = config.to_tree()
    public = resolve(_without_variables(tree))
    secrets = set(secret_settings(tree))
    literal = {str(value) for key, value in _each(tree) if key in secrets}
    found = []
    for keys, value in _leaves(tree, ()):
        path, shown, written = tuple(map(str, keys)), value, None
        if isinstance(value, str) and "${" in value:
            looked_up = _at(public, keys)
            if not any(text in str(looked_up) for text in (_FROM_VARIABLE, "${", *literal)):
                shown, written = looked_up, value
        covered = _covered(shown, ".".join(path), secrets)
        found.append(Setting(path, covered, origins.get(path, DEFAULT), written))
    return found


def _at(tree: Any, keys: tuple[Any, ...]) -> Any:
    for key in keys:
        tree = tree[key]
    return tree


def _leaves(tree: Any, keys: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value that is no section, with the keys that lead to it."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*keys, key))
    else:
        yield keys, tree


def _each(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that holds no others, also of lists, by dotted key."""
    if isinstance(tree, Mapping | list):
        inner = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for name, value in inner:
            yield from _each(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, tree


def _without_variables(tree: Any) -> Any:
    """A tree whose texts that name environment variables are a mark."""
    if isinstance(tree, Mapping):
        return {key: _without_variables(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_without_variables(value) for value in tree]
    return _FROM_VARIABLE if isinstance(tree, str) and "oc.env" in tree else tree


def _covered(value: Any, path: str, secrets: set[str]) -> Any:
    if path in secrets:
        return COVERED
    if isinstance(value, Mapping):
        return {key: _covered(inner, f"{path}.{key}", secrets) for key, inner in value.items()}
    if isinstance(value, list):
        return [_covered(inner, f"{path}.{n}", secrets) for n, inner in enumerate(value)]
    return value


def _origins(file: Path, overrides: Sequence[str]) -> dict[_Path, str]:
    """What is written somewhere, and where; later ones count."""
    import yaml
    from omegaconf import OmegaConf

    origins: dict[_Path, str] = {}
    try:
        root = yaml.compose(file.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: was changed while it was read: {error}") from None
    for path, line in _lines(root, ()):
        origins[path] = f"{file}:{line}"
    for override in overrides:
        tree = OmegaConf.to_container(OmegaConf.from_dotlist([override]), resolve=False)
        for keys, _ in _leaves(tree, ()):
            origins[tuple(map(str, keys))] = COMMAND_LINE
    return origins


def _lines(node: Any, path: _Path) -> Iterator[tuple[_Path, int]]:
    """The line of every key below a node of a YAML file, counted from 1; the last one counts."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return
    merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
    for value in merged:
        parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for part in reversed(parts):
            yield from _lines(part, path)
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and value not in merged:
            yield (*path, key.value), key.start_mark.line + 1
            yield from _lines(value, (*path, key.value))


def to_yaml(settings: Sequence[Setting]) -> str:
    """Settings as a config that can be read again, each with a comment that tells its origin."""
    rows: list[tuple[str, str]] = []
    open_sections: _Path = ()
    for setting in settings:
        sections = setting.path[:-1]
        shared = 0
        while shared < min(len(sections), len(open_sections)) and (
            sections[shared] == open_sections[shared]
        ):
            shared += 1
        for depth in range(shared, len(sections)):
            rows.append((f"{'  ' * depth}{_flow(sections[depth])}:", ""))
        open_sections = sections
        note = setting.origin + (f", {setting.written}" if setting.written else "")
        indent = "  " * len(sections)
        rows.append((f"{indent}{_flow(setting.path[-1])}: {_flow(setting.value)}", note))
    width = min(_COMMENT_COLUMN, max((len(text) for text, note in rows if note), default=0))
    return "\n".join(f"{text:{width}}  # {note}" if note else text for text, note in rows)


#: Column of the comments; a longer line has its own right behind it.
_COMMENT_COLUMN = 56

#: Text that every reader of YAML takes for text, without quotes.
_PLAIN = re.compile(r"(\.{0,2}/)?[A-Za-z_][\w./+-]*(:[\w./+-]+)*")
_NOT_TEXT = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    import yaml

    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.isascii() and value.lower() not in _NOT_TEXT:
            return value
        quoted = yaml.safe_dump(value, default_style='"', width=float("inf"), allow_unicode=True)
        return str(quoted).strip()
    return str(yaml.safe_dump(value)).removesuffix("...\n").strip()
