"""Flags of the `gym` command of later NeMo Gym versions, as the arguments they stand for.

`gym eval run --limit 3` is `ng_collect_rollouts +limit=3`: every flag of theirs is an argument of
their configuration, and names of components are paths of config files.

Not owned here: what the arguments mean (arguments).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from gym_ray.errors import ConfigError

#: Folder of a kind of component, the one of its configs, and the config of a bare name; None for
#: the name itself.
_COMPONENTS = {
    "benchmark": ("benchmarks", "", "config"),
    "environment": ("environments", "", "config"),
    "resources_server": ("resources_servers", "configs", None),
    "model_type": ("responses_api_models", "configs", None),
}

#: Further folders, separated as those of PATH, that NeMo Gym looks for components in.
_ROOTS_VARIABLE = "NEMO_GYM_EXTRA_ROOTS"


def as_arguments(
    flags: Mapping[str, str | bool | None],
    *,
    configs: Sequence[str] = (),
    components: Mapping[str, str | None] | None = None,
    search_dirs: Sequence[str] = (),
) -> list[str]:
    """The arguments that flags stand for, `+key=value`.

    Args:
        flags: by key of the argument; those that were not given are None or False.
        configs: of `--config`.
        components: of `--benchmark`, `--environment`, `--resources-server` and `--model-type`.
        search_dirs: of `--search-dir`.

    Raises:
        ConfigError: there is no such component.
    """
    named = [
        config_of(kind, name, search_dirs)
        for kind, name in (components or {}).items()
        if name is not None
    ]
    paths = [*configs, *named]
    texts = [f"+config_paths=[{','.join(paths)}]"] if paths else []
    for key, value in flags.items():
        if value is True:
            texts.append(f"+{key}=true")
        elif isinstance(value, str):
            texts.append(f"+{key}={value}")
    return texts


def config_of(kind: str, name: str, search_dirs: Sequence[str] = ()) -> str:
    """The config file of a component, as NeMo Gym finds it: `NAME`, or `NAME/CONFIG`.

    Args:
        kind: `benchmark`, `environment`, `resources_server` or `model_type`.
        name: of the component.
        search_dirs: folders looked in before the working directory.

    Raises:
        ConfigError: there is none.
    """
    parent, inside, default = _COMPONENTS[kind]
    flag = f"--{kind.replace('_', '-')}"
    server, _, config = name.partition("/")
    file = Path(server, inside, f"{config or default or server}.yaml")
    more = os.environ.get(_ROOTS_VARIABLE, "").split(os.pathsep)
    roots = [Path(root) for root in (*search_dirs, *filter(None, more), ".")]
    for root in roots:
        found = root / parent / file
        if found.is_file():
            return str(found)
    known = {entry.name for root in roots for entry in (root / parent).glob("[!._]*/")}
    nearest = difflib.get_close_matches(server, known, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest and nearest[0] != server else ""
    looked = ", ".join(str(root / parent / file) for root in roots)
    raise ConfigError(
        f"{flag} {name}: no file {looked}; {hint}name the file itself with --config, or the "
        "checkout of NeMo Gym it is in with --search-dir"
    )
