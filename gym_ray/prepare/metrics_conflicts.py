"""Metrics files of earlier task rows, which new ones are compared with.

Not owned here: when two differ (the caller's rule, such as NeMo Gym's in compat), and what becomes
of a conflict (prepare).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gym_ray.errors import ConfigError

#: What differs between the contents of an old metrics file and a new one, a line each.
CompareMetrics = Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]


def changed_metrics(
    earlier: Mapping[str, Mapping[str, Any]], folder: Path, compare: CompareMetrics
) -> dict[str, list[str]]:
    """How the metrics files of a folder differ from earlier ones.

    Args:
        earlier: what `read_metrics` read of another folder, or before.
        folder: the new ones. A file that is not there is not compared.
        compare: the rule.

    Returns:
        The differences by file name; none that are empty.
    """
    now = read_metrics(folder / name for name in earlier)
    found = {name: compare(earlier[name], tree) for name, tree in now.items()}
    return {name: changed for name, changed in found.items() if changed}


def read_metrics(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Metrics files that are there, by file name.

    Raises:
        ConfigError: one is not readable as a JSON object.
    """
    found = {path.name: _read(path) for path in paths}
    return {name: tree for name, tree in found.items() if tree is not None}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: metrics that new ones should be compared with cannot be read: {error}; "
            "delete the file, or have it overwritten"
        ) from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds no JSON object, so it is no metrics file; delete it")
    return tree


def conflict_path(path: Path) -> Path:
    """Where metrics go that differ from those at a path: `train_metrics_conflict.json`."""
    return path.with_name(f"{path.stem}_conflict.json")
