"""gym-ray: a distributed rollout service on Ray.

    import gym_ray

    summary = gym_ray.collect("deployments/laptop-cpu.yaml")
    for rollout in gym_ray.read_rollouts(summary.output):
        ...

Importing this package is quick and imports neither Ray nor an engine.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gym_ray.client import AsyncRolloutClient as AsyncRolloutClient
    from gym_ray.client import RolloutClient as RolloutClient
    from gym_ray.client import RolloutGroup as RolloutGroup
    from gym_ray.client import RolloutResult as RolloutResult
    from gym_ray.collection import RunSummary as RunSummary
    from gym_ray.collection import collect as collect
    from gym_ray.environment import Environment as Environment
    from gym_ray.environment import GoldStep as GoldStep
    from gym_ray.environment import GymnasiumEnvironment as GymnasiumEnvironment
    from gym_ray.environment import Outcome as Outcome
    from gym_ray.environment import Step as Step
    from gym_ray.environment import TaskFields as TaskFields
    from gym_ray.errors import ConfigError as ConfigError
    from gym_ray.errors import FailureKind as FailureKind
    from gym_ray.errors import GymRayError as GymRayError
    from gym_ray.errors import RolloutFailure as RolloutFailure
    from gym_ray.judging import Judge as Judge
    from gym_ray.judging import ask_for as ask_for
    from gym_ray.reverification.reverify import reverify as reverify
    from gym_ray.rollout import Rollout as Rollout
    from gym_ray.store.reading import Rollouts as Rollouts
    from gym_ray.store.stored_run import read_rollouts as read_rollouts
    from gym_ray.task import Task as Task
    from gym_ray.tools import UnknownTool as UnknownTool
    from gym_ray.tools import tool as tool
    from gym_ray.verdict import Verdict as Verdict

_HOME = {
    "AsyncRolloutClient": "gym_ray.client",
    "RolloutClient": "gym_ray.client",
    "RolloutGroup": "gym_ray.client",
    "RolloutResult": "gym_ray.client",
    "Rollouts": "gym_ray.store.reading",
    "RunSummary": "gym_ray.collection",
    "collect": "gym_ray.collection",
    "read_rollouts": "gym_ray.store.stored_run",
    "reverify": "gym_ray.reverification.reverify",
    "Environment": "gym_ray.environment",
    "GoldStep": "gym_ray.environment",
    "Outcome": "gym_ray.environment",
    "Step": "gym_ray.environment",
    "TaskFields": "gym_ray.environment",
    "ConfigError": "gym_ray.errors",
    "FailureKind": "gym_ray.errors",
    "GymRayError": "gym_ray.errors",
    "RolloutFailure": "gym_ray.errors",
    "GymnasiumEnvironment": "gym_ray.environment",
    "Judge": "gym_ray.judging",
    "ask_for": "gym_ray.judging",
    "Rollout": "gym_ray.rollout",
    "Task": "gym_ray.task",
    "UnknownTool": "gym_ray.tools",
    "tool": "gym_ray.tools",
    "Verdict": "gym_ray.verdict",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
