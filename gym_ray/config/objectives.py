"""Objectives: what the rollouts are for, and the sampling that suits it.

A preset is a layer of defaults below the config file and below what is given on the command line.
Reasons are in docs/sampling.md. Not owned here: filtering, which is the export's; collection keeps
every rollout, and the filters of an objective are told, kept in `run.yaml`, and the defaults of the
export of that name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

ObjectiveName = Literal["rl", "sft", "dpo"]


@dataclasses.dataclass(frozen=True, slots=True)
class Objective:
    """One preset.

    Attributes:
        defaults: dotted config keys and their values.
        filters: what to keep when exporting, by field of the export's recipe.
    """

    defaults: Mapping[str, Any]
    filters: Mapping[str, Any]


OBJECTIVES: Mapping[ObjectiveName, Objective] = MappingProxyType(
    {
        "rl": Objective(
            defaults={"sampling.temperature": 1.0, "collect.num_repeats": 8},
            filters={"drop_zero_variance": True},
        ),
        "sft": Objective(
            defaults={"sampling.temperature": 0.2, "collect.num_repeats": 2},
            filters={"min_reward": 0.8, "include_truncated": False},
        ),
        "dpo": Objective(
            defaults={"sampling.temperature": 0.7, "collect.num_repeats": 4},
            filters={"pairing": "best-worst", "margin": 0.1},
        ),
    }
)


def fill(tree: dict[str, Any], name: ObjectiveName) -> dict[str, Any]:
    """Set in a config tree what an objective asks for and the tree does not say.

    Returns:
        What was set, by dotted key.
    """
    filled: dict[str, Any] = {}
    for key, value in OBJECTIVES[name].defaults.items():
        section_name, field = key.split(".")
        section = tree.setdefault(section_name, {})
        if isinstance(section, dict) and field not in section:
            section[field] = value
            filled[key] = value
    return filled


def describe(name: ObjectiveName, filled: Mapping[str, Any]) -> str:
    """What an objective set, and what to keep of the rollouts when they are exported."""

    def shown(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{key}={value}" for key, value in values.items())

    filters = shown(OBJECTIVES[name].filters)
    return f"objective {name} sets {shown(filled) or 'nothing anew'}; when exporting: {filters}"
