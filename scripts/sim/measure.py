"""Measure real collections by 1, 2, 4, … policy replicas, and what the simulation says of them.

The policy is scripted: each replica works on a fixed number of turns at once, which take a while
drawn from a range, so that replicas are the bottleneck as GPUs are. Everything else is real: Ray
Serve, Ray Data, environments with tools, routing. Service times are taken from the rows of the
run with the fewest replicas alone; the other sizes are predicted from those.

    python -m scripts.sim.measure --replicas 1 2 4 --output scripts/sim/measured.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

import gym_ray
from scripts.sim.fleet import Fleet, Measured, simulate

SLOTS = 16
LATENCY_SECONDS = (0.4, 1.6)

#: Of every slot, so that queues never run dry.
IN_FLIGHT = 2.0

#: Rollouts of every slot.
ROLLOUTS = 16

GAME = '''
from gym_ray import GymnasiumEnvironment, Step, Task


class Rounds(GymnasiumEnvironment):
    """As many turns as the task says."""

    async def reset(self, task: Task) -> list[int]:
        return [task["rounds"]]

    async def step(self, state: list[int], action: str) -> Step:
        state[0] -= 1
        return Step("Go on.", reward=float(not state[0]), done=not state[0])
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--output", type=Path, default=Path("measured.json"))
    arguments = parser.parse_args()
    runs: list[dict[str, Any]] = []
    measured: Measured | None = None
    for replicas in sorted(arguments.replicas):
        rows = collected(replicas)
        measured = measured or service_times(rows)
        fleet = Fleet(replicas, SLOTS, int(IN_FLIGHT * SLOTS * replicas))
        predicted = simulate(measured, fleet, len(rows))
        real = steady_rate(rows)
        runs.append(
            {
                "replicas": replicas,
                "rollouts": len(rows),
                "measured_rollouts_per_second": real,
                "predicted_rollouts_per_second": predicted.steady_rollouts_per_second,
            }
        )
        off = predicted.steady_rollouts_per_second / real - 1
        print(f"{replicas} replicas: {real:.2f} rollouts/s measured, predicted {off:+.1%} off")
    assert measured is not None
    result = {"slots": SLOTS, "measured": dataclasses.asdict(measured), "runs": runs}
    arguments.output.write_text(json.dumps(result))


def collected(replicas: int) -> Any:
    """Rows of one collection, its own Ray started and stopped."""
    rollouts = ROLLOUTS * SLOTS * replicas
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rounds.py").write_text(GAME)
        with open(folder / "tasks.jsonl", "w") as file:
            for number in range(rollouts):
                prompt = {"input": f"Game {number}."}
                row = {"responses_create_params": prompt, "rounds": 1 + number % 3}
                file.write(json.dumps(row) + "\n")
        config = {
            "policy": {
                "engine": "scripted",
                "model": "scripted",
                "engine_args": {
                    "latency_seconds": LATENCY_SECONDS,
                    "slots": SLOTS,
                },
                "resources": {"num_cpus": 0.1},
                "autoscaling": {"min_replicas": replicas, "max_replicas": replicas},
            },
            "environments": {
                "rounds": {
                    "entrypoint": f"{folder}/rounds.py:Rounds",
                    "agent": "gymnasium",
                    "resources": {"num_cpus": 0.1},
                }
            },
            "collect": {
                "input": str(folder / "tasks.jsonl"),
                "output": str(folder / "run"),
                "max_in_flight": int(IN_FLIGHT * SLOTS * replicas),
            },
        }
        summary = gym_ray.collect(config)
        assert summary.completed == rollouts, summary
        return gym_ray.read_rollouts(folder / "run").to_arrow(["turns", "seconds", "started_at"])


def service_times(rows: Any) -> Measured:
    """What the turns and the rest of the rollouts took."""
    turns = rows["turns"].to_pylist()
    outside = [
        max(0.0, seconds - sum(t["queued_seconds"] + t["generation_seconds"] for t in own))
        for seconds, own in zip(rows["seconds"].to_pylist(), turns, strict=True)
    ]
    return Measured(
        turn_seconds=[round(turn["generation_seconds"], 4) for own in turns for turn in own],
        turns=[len(own) for own in turns],
        outside_seconds=[round(seconds, 4) for seconds in outside],
    )


def steady_rate(rows: Any) -> float:
    """Rollouts per second over the middle half, as the simulation counts them."""
    started = pc.cast(rows["started_at"], "int64").to_numpy() / 1e6
    ends = np.sort(started + rows["seconds"].to_numpy())
    first, last = len(ends) // 4, 3 * len(ends) // 4
    return float((last - first) / (ends[last] - ends[first]))


if __name__ == "__main__":
    main()
