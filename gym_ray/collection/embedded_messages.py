"""What a command and the process of its embedded collection tell each other."""

from __future__ import annotations

import dataclasses

from gym_ray.collection.monitor import Order
from gym_ray.collection.remaining import Positions
from gym_ray.collection.stage import StageSettings
from gym_ray.config.load import RunConfig
from gym_ray.errors import GymRayError
from gym_ray.policies.engine import PolicyInfo
from gym_ray.telemetry.progress import Counts

# What the command says.


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """Have policy and environments up."""

    config: RunConfig


@dataclasses.dataclass(frozen=True, slots=True)
class RunPass:
    """Run what is left of a run; one pass at a time."""

    settings: StageSettings
    manifest: str
    left: Positions


@dataclasses.dataclass(frozen=True, slots=True)
class GiveOrder:
    """The order in force."""

    order: Order


# What it is told.


@dataclasses.dataclass(frozen=True, slots=True)
class Starting:
    """What is being done before everything is up."""

    what: str


@dataclasses.dataclass(frozen=True, slots=True)
class Up:
    """Everything is up."""

    policy: PolicyInfo


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """It cannot be had."""

    error: GymRayError


@dataclasses.dataclass(frozen=True, slots=True)
class InFlight:
    """Rollouts, by ID, that go to their environment now, or that have come back from it."""

    rollouts: tuple[str, ...]
    has_begun: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """How far a pass is."""

    counts: Counts
    is_drained: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """A pass has ended."""

    counts: Counts
    error: Exception | None
