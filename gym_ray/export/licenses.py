"""Licenses of the tasks that rollouts are of, as a card tells them (`StoredRun.licenses` has them).

A declaration says under what terms task rows came; whether a dataset made of rollouts of them may
be given away also depends on the model's, and is for a person to decide.
"""

from __future__ import annotations

import re
from typing import Any

from gym_ray.store.stored_config import Licenses

#: Names of the Hugging Face Hub for what a config may declare (`environment.License`).
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


def front_matter(licenses: Licenses) -> dict[str, Any]:
    """`license` of a card, in the Hub's names; {} unless every environment declares all of its.

    A license the Hub has no name for is `other`, with its own in `license_name`.
    """
    declared = [license for datasets in licenses.values() for license in datasets.values()]
    if not declared or None in declared or not all(licenses.values()):
        return {}
    known = dict.fromkeys(license for license in declared if license is not None)
    names = list(dict.fromkeys(_HUB_NAMES.get(license, "other") for license in known))
    front: dict[str, Any] = {"license": names[0] if len(names) == 1 else names}
    others = [_slug(license) for license in known if license not in _HUB_NAMES]
    return front | ({"license_name": ", ".join(others)} if others else {})


def shown_licenses(licenses: Licenses) -> str:
    """For the card's table: `math: sums (Apache 2.0)`."""
    parts = [
        f"{environment}: {dataset} ({license or 'not stated'})"
        for environment, datasets in licenses.items()
        for dataset, license in datasets.items()
    ]
    return "; ".join(parts)


def _slug(license: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", license.lower()).strip("-")
