"""How many replicas a load asks for, decided for Ray Serve's autoscaler.

Owned here: the decision, a pure function of the load and the replicas in force, and its form as
Serve's autoscaling policies. Not owned: measuring (each replica reports its own load, see
`policy_replica.py` and `environment_replica.py`), and what Serve does: the mean over time, delays,
starting and draining replicas (`options.py` sets it up). See docs/autoscaling.md.

Why not Serve's own policy: it counts calls, and a call here carries up to sixteen rollouts or turns
and lasts until the last of them has ended.

Serve pickles this module whole for its controller, which may run where gym-ray is not installed:
nothing but the standard library is imported here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

#: Names under which replicas tell their load.
ROLLOUTS = "gym_ray_rollouts"
TURNS = "gym_ray_turns"
ENGINE_RUNNING = "gym_ray_engine_running"
ENGINE_WAITING = "gym_ray_engine_waiting"
KV_CACHE_USAGE = "gym_ray_kv_cache_usage"

#: A replica is let go only when the others would be this full at most. Without it, a load that
#: wavers around a whole number of replicas would start and stop one again and again.
FULL_AFTER_DOWNSCALE = 0.9

#: Loads are sums of floating-point means; this much above a whole number is none.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """Replicas at least and at most."""

    minimum: int
    maximum: int


@dataclasses.dataclass(frozen=True, slots=True)
class EngineUse:
    """How full one policy replica is, as a mean over time.

    Attributes:
        turns: in work, at whatever stage.
        running: turns in the engine's batch.
        waiting: turns the engine has not begun.
        kv_cache_usage: share of the KV cache in use, 0 to 1.
    """

    turns: float
    running: float = 0.0
    waiting: float = 0.0
    kv_cache_usage: float = 0.0


def replicas_wanted(load: float, replicas: int, bounds: Bounds) -> int:
    """How many replicas there should be.

    As many as the load fills, and those in force as long as they are not clearly too many: the
    result is the nearest to `replicas` between `ceil(load)` and `ceil(load /
    FULL_AFTER_DOWNSCALE)`, within bounds. It never falls as the load grows, and given its own
    result it stays there.

    Args:
        load: in replicas, e.g. 2.5 for two and a half full ones.
        replicas: in force now, starting ones included.
        bounds: of the result.
    """
    least = 1 if load > 0 else 0
    fewest = max(least, math.ceil(load - _ROUNDING))
    most = max(least, math.ceil(load / FULL_AFTER_DOWNSCALE - _ROUNDING))
    wanted = min(max(replicas, fewest), most)
    return min(max(wanted, bounds.minimum), bounds.maximum)


def environment_load(rollouts: Sequence[float], target: float) -> float:
    """Load of an environment, in replicas.

    Args:
        rollouts: in work at each replica.
        target: rollouts that fill one.
    """
    return sum(rollouts) / target


def policy_load(uses: Sequence[EngineUse], target_turns: float, target_kv_cache: float) -> float:
    """Load of a policy, in replicas: by turns or by KV cache, whichever asks for more.

    The cache counts as if waiting turns were in it, each as large as a running one is: a full cache
    with a queue behind it looks no fuller than one without.

    Args:
        uses: of each replica.
        target_turns: turns that fill one.
        target_kv_cache: share of the cache in use that fills one.
    """
    turns = sum(use.turns for use in uses)
    cache = sum(use.kv_cache_usage * (1 + use.waiting / max(use.running, 1.0)) for use in uses)
    return max(turns / target_turns, cache / target_kv_cache)


class EnvironmentAutoscaling:
    """Serve's autoscaling policy of an environment.

    Args:
        target: rollouts that fill a replica.
    """

    def __init__(self, target: float) -> None:
        self._target = target

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        told = context.aggregated_metrics or {}
        rollouts = list(told.get(ROLLOUTS, {}).values())
        return _decide(environment_load(rollouts, self._target), context)


class PolicyAutoscaling:
    """Serve's autoscaling policy of a policy or a judge.

    Args:
        target_turns: turns that fill a replica.
        target_kv_cache: share of its KV cache in use that does.
    """

    def __init__(self, target_turns: float, target_kv_cache: float) -> None:
        self._target_turns = target_turns
        self._target_kv_cache = target_kv_cache

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        uses = engine_uses(context.aggregated_metrics or {})
        return _decide(policy_load(uses, self._target_turns, self._target_kv_cache), context)


def engine_uses(told: Mapping[str, Mapping[Any, float]]) -> list[EngineUse]:
    """What policy replicas told, one by one.

    Args:
        told: by name and replica.
    """

    def of(name: str, replica: Any) -> float:
        return told.get(name, {}).get(replica, 0.0)

    return [
        EngineUse(
            turns=turns,
            running=of(ENGINE_RUNNING, replica),
            waiting=of(ENGINE_WAITING, replica),
            kv_cache_usage=of(KV_CACHE_USAGE, replica),
        )
        for replica, turns in told.get(TURNS, {}).items()
    ]


def _decide(load: float, context: Any) -> tuple[int, dict[str, Any]]:
    """Serve adds the delays, and starts the first replica itself when a call waits for one."""
    bounds = Bounds(context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas)
    return replicas_wanted(load, context.target_num_replicas, bounds), {}
