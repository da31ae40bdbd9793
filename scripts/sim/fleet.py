"""A fleet of policy replicas working through rollouts, as a discrete-event simulation (simpy).

What is modelled: a bounded number of rollouts in flight; each takes turns, one after the other,
with time outside the policy around them (environment, verification, hops); each turn goes to the
less loaded of two replicas drawn at random, as Serve routes; a replica works on `slots` turns at
once and the others wait in its queue; replicas start late, and are released when idle at the end.

What is not: that turns of one rollout run faster where their prefix is cached, that a replica with
more turns in work gives each fewer tokens a second (measure at the load you plan for), failures,
and limits of the network or of the CPUs that environments run on.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import simpy

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Service times of real rollouts, drawn from as they are.

    Attributes:
        turn_seconds: of turns in the engine, waiting for a slot left out.
        turns: of rollouts: how many each took.
        outside_seconds: of rollouts: what of their time no turn accounts for.
    """

    turn_seconds: Sequence[float]
    turns: Sequence[int]
    outside_seconds: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Fleet:
    """What is simulated.

    Attributes:
        replicas: of the policy.
        slots: turns a replica works on at once.
        in_flight: rollouts at once.
        start_seconds: until the replicas are there.
        release_seconds: a replica idle for so long at the end is given back; None keeps all of
            them to the end.
    """

    replicas: int
    slots: int
    in_flight: int
    start_seconds: float = 0.0
    release_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        seconds: from the first rollout's start to the last one's end.
        rollouts_per_second: over that time.
        steady_rollouts_per_second: over the middle half of the rollouts, without start and tail.
        tail_seconds: from 95 % of the rollouts done to all.
        replica_hours: paid for, from request to release.
        busy_share: of the slot time paid for.
    """

    seconds: float
    rollouts_per_second: float
    steady_rollouts_per_second: float
    tail_seconds: float
    replica_hours: float
    busy_share: float


class _Replica:
    def __init__(self, world: simpy.Environment, slots: int) -> None:
        self.slots = simpy.Resource(world, capacity=slots)
        self.busy_seconds = 0.0
        self.last_busy = 0.0

    def ongoing(self) -> int:
        return int(self.slots.count) + len(self.slots.queue)


def simulate(measured: Measured, fleet: Fleet, rollouts: int, seed: int = 0) -> Outcome:
    """Work through so many rollouts.

    Args:
        measured: what their times are drawn from.
        fleet: what works.
        rollouts: how many.
        seed: of the draws.
    """
    world = simpy.Environment()
    draw = random.Random(seed)
    replicas = [_Replica(world, fleet.slots) for _ in range(fleet.replicas)]
    left = iter(range(rollouts))
    ends: list[float] = []
    for _ in range(min(fleet.in_flight, rollouts)):
        world.process(_place(world, measured, replicas, left, draw, ends))
    world.run()
    return _outcome(np.sort(np.asarray(ends)), replicas, fleet)


def _place(
    world: simpy.Environment,
    measured: Measured,
    replicas: list[_Replica],
    left: Any,
    draw: random.Random,
    ends: list[float],
) -> Generator[Any, Any, None]:
    """One place in flight: a rollout after the other, as long as there are any."""
    for _ in left:
        number = draw.randrange(len(measured.turns))
        turns = measured.turns[number]
        pause = measured.outside_seconds[number] / (turns + 1)
        yield world.timeout(pause)
        for _ in range(turns):
            replica = min(draw.choices(replicas, k=2), key=_Replica.ongoing)
            with replica.slots.request() as slot:
                yield slot
                seconds = draw.choice(measured.turn_seconds)
                yield world.timeout(seconds)
                replica.busy_seconds += seconds
                replica.last_busy = world.now
            yield world.timeout(pause)
        ends.append(world.now)


def _outcome(ends: Floats, replicas: list[_Replica], fleet: Fleet) -> Outcome:
    seconds = float(ends[-1])
    if fleet.release_seconds is None:
        paid = fleet.replicas * seconds
    else:
        paid = sum(min(r.last_busy + fleet.release_seconds, seconds) for r in replicas)
    busy = sum(replica.busy_seconds for replica in replicas)
    first, last = len(ends) // 4, 3 * len(ends) // 4
    return Outcome(
        seconds=seconds + fleet.start_seconds,
        rollouts_per_second=len(ends) / (seconds + fleet.start_seconds),
        steady_rollouts_per_second=(last - first) / float(ends[last] - ends[first]),
        tail_seconds=seconds - float(ends[int(0.95 * len(ends))]),
        replica_hours=(paid + fleet.replicas * fleet.start_seconds) / 3600,
        busy_share=busy / (fleet.slots * paid),
    )
