"""Licences of the tasks that rollouts are of, as their environments' datasets declare them.

A declaration says under what terms task rows came; whether a dataset made of rollouts of them may
be given away also depends on the model's, and is for a person to decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from gym_ray.config.load import resolve
from gym_ray.store.run_directory import run_yaml

#: Names of the Hugging Face Hub for what a config may declare (`sections.Licence`).
_HUB_NAMES = {
    "Apache 2.0": "apache-2.0",
    "MIT": "mit",
    "Creative Commons Attribution 4.0 International": "cc-by-4.0",
    "Creative Commons Attribution-ShareAlike 4.0 International": "cc-by-sa-4.0",
    "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC BY-NC 3.0": "cc-by-nc-3.0",
    "GNU General Public License v3.0": "gpl-3.0",
    "TBD": "unknown",
}

#: Licences of datasets by name, by environment; None where one declares none.
Licences = Mapping[str, Mapping[str, str | None]]


def declared_licences(folder: Path, environments: Iterable[str]) -> Licences:
    """What `run.yaml` of a run directory declares.

    Args:
        folder: the run directory, or its folder of shards; one without `run.yaml` declares nothing.
        environments: whose datasets are asked for.
    """
    try:
        tree: Any = resolve(yaml.safe_load(run_yaml(folder).read_text()) or {})
    except (OSError, yaml.YAMLError):
        tree = {}
    sections = (tree or {}).get("environments") or {}
    return {
        name: {
            dataset["name"]: dataset.get("licence")
            for dataset in (sections.get(name) or {}).get("datasets") or ()
        }
        for name in environments
    }


def front_matter(licences: Licences) -> dict[str, Any]:
    """`license` of a card, in the Hub's names; {} unless every environment declares all of its.

    A licence the Hub has no name for is `other`, with its own in `license_name`.
    """
    declared = [licence for datasets in licences.values() for licence in datasets.values()]
    if not declared or None in declared or not all(licences.values()):
        return {}
    known = dict.fromkeys(licence for licence in declared if licence is not None)
    names = list(dict.fromkeys(_HUB_NAMES.get(licence, "other") for licence in known))
    front: dict[str, Any] = {"license": names[0] if len(names) == 1 else names}
    others = [_slug(licence) for licence in known if licence not in _HUB_NAMES]
    return front | ({"license_name": ", ".join(others)} if others else {})


def shown_licences(licences: Licences) -> str:
    """For the card's table: `math: sums (Apache 2.0)`."""
    parts = [
        f"{environment}: {dataset} ({licence or 'not stated'})"
        for environment, datasets in licences.items()
        for dataset, licence in datasets.items()
    ]
    return "; ".join(parts)


def _slug(licence: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", licence.lower()).strip("-")
