"""The driver's side: gym-ray's actor where NeMo RL has its own.

NeMo RL's modules make their actors with `NemoGym` of one module of theirs, sharded or not, and
find its interpreter in a registry by its name. Both are exchanged; NeMo RL goes on to start the
actor, to spin it up and to route rows to it as it does with its own.
"""

from __future__ import annotations

import collections.abc
import importlib
import sys
import typing
from typing import Any

from gym_ray.errors import ConfigError
from gym_ray.integrations.nemo_rl.actor import NemoGym, NemoGymOfAugust, NemoGymOfReleases

_MODULE = "nemo_rl.environments.nemo_gym"
_REGISTRY = "nemo_rl.distributed.ray_actor_environment_registry"

#: Actor classes by how many parts a stream of NeMo RL's has.
_BY_PARTS = {3: NemoGymOfAugust, 4: NemoGym}


def exchange_nemo_gym(python: str | None = None) -> Any:
    """Have NeMo RL use gym-ray's actor in place of its own `NemoGym`.

    Call it in the driver, before any other module of NeMo RL is imported.

    Args:
        python: interpreter of the actor, on every node; None for the driver's.

    Returns:
        The actor class that fits this NeMo RL.

    Raises:
        ConfigError: this NeMo RL is none we know, or has taken its own class already.
    """
    theirs: Any = importlib.import_module(_MODULE)
    registry = importlib.import_module(_REGISTRY).ACTOR_ENVIRONMENT_REGISTRY
    taken = [
        name
        for name, module in list(sys.modules.items())
        if name.startswith("nemo_rl.")
        and module is not theirs
        and getattr(module, "NemoGym", None) is theirs.NemoGym
    ]
    if taken:
        raise ConfigError(
            f"{', '.join(taken)} has taken NeMo RL's own NemoGym already: call exchange_nemo_gym() "
            "before NeMo RL's modules are imported"
        )
    # Sets the variables that Serve and all of its replicas have to agree in: NeMo RL gives the
    # driver's to the actor, from which they inherit them.
    importlib.import_module("gym_ray.serving")
    actor = _fitting(theirs.NemoGym)
    theirs.NemoGym = actor
    registry[f"{_MODULE}.NemoGym"] = python or sys.executable
    return actor


def _fitting(theirs: Any) -> Any:
    """Our actor class with the interface of NeMo RL's, by what its `run_rollouts` returns."""
    plain = getattr(getattr(theirs, "__ray_metadata__", None), "modified_class", theirs)
    try:
        returned = typing.get_type_hints(plain.run_rollouts)["return"]
    except (AttributeError, KeyError, NameError, TypeError) as error:
        raise ConfigError(
            f"this NeMo RL's NemoGym.run_rollouts does not say what it returns ({error}), so no "
            "actor of gym-ray is known to fit; docs/nemo-rl.md has the versions that do"
        ) from None
    if typing.get_origin(returned) is not collections.abc.AsyncGenerator:
        return NemoGymOfReleases
    parts = len(typing.get_args(typing.get_args(returned)[0]))
    if parts not in _BY_PARTS:
        raise ConfigError(
            f"this NeMo RL's NemoGym streams {parts} parts a row, and gym-ray knows 3 (August "
            "2026) and 4 (0.8); it needs a newer gym-ray"
        )
    return _BY_PARTS[parts]
