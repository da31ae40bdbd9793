"""What the simulation says of 1 to 1,000 replicas, from service times that `measure.py` wrote.

python -m scripts.sim.predict scripts/sim/measured.json --plot docs/images/scaling.svg
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from scripts.sim.fleet import Fleet, Measured, Outcome, simulate
from scripts.sim.measure import IN_FLIGHT, ROLLOUTS

REPLICAS = (1, 2, 4, 8, 16, 32, 64, 125, 250, 500, 1000)

#: Rollouts of the job of one size, whatever works on it.
JOB_ROLLOUTS = 64_000

#: A replica idle for so long is given back.
RELEASE_SECONDS = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--replicas", type=int, nargs="+", default=REPLICAS)
    arguments = parser.parse_args()
    found = json.loads(arguments.measured.read_text())
    measured, slots = Measured(**found["measured"]), found["slots"]
    growing = [_run(measured, slots, n, ROLLOUTS * slots * n) for n in arguments.replicas]
    fixed = [_run(measured, slots, n, JOB_ROLLOUTS) for n in arguments.replicas]
    unit = slots / (statistics.mean(measured.turn_seconds) * statistics.mean(measured.turns))
    for line in table(arguments.replicas, growing, fixed, unit):
        print(line)
    if arguments.plot is not None:
        plot(arguments.plot, arguments.replicas, growing, fixed, found["runs"], unit)


def _run(measured: Measured, slots: int, replicas: int, rollouts: int) -> Outcome:
    fleet = Fleet(
        replicas, slots, int(IN_FLIGHT * slots * replicas), release_seconds=RELEASE_SECONDS
    )
    return simulate(measured, fleet, rollouts)


def table(replicas: Any, growing: list[Outcome], fixed: list[Outcome], unit: float) -> list[str]:
    """Markdown; `unit` is what a replica does whose slots are never empty, rollouts/s."""
    lines = [
        f"| replicas | rollouts/s | of ideal | {JOB_ROLLOUTS:,} rollouts take "
        "| of it, the last 5 % | replica hours | slots busy |",
        "|---|---|---|---|---|---|---|",
    ]
    for count, more, job in zip(replicas, growing, fixed, strict=True):
        rate = more.steady_rollouts_per_second
        lines.append(
            f"| {count:,} | {rate:,.0f} | {rate / count / unit:.0%} | {job.seconds:,.0f} s "
            f"| {job.tail_seconds:.0f} s | {job.replica_hours:.2f} | {job.busy_share:.0%} |"
        )
    return lines


def plot(
    path: Path,
    replicas: Any,
    growing: list[Outcome],
    fixed: list[Outcome],
    runs: list[Any],
    unit: float,
) -> None:
    """Rate against replicas with the measured points, and what a job of one size costs."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "gym-ray"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    rates = [outcome.steady_rollouts_per_second for outcome in growing]
    left.loglog(replicas, [unit * count for count in replicas], ":", color="grey", label="ideal")
    left.loglog(replicas, rates, label="simulated")
    left.loglog(
        [run["replicas"] for run in runs],
        [run["measured_rollouts_per_second"] for run in runs],
        "o",
        label="measured",
    )
    left.set(xlabel="policy replicas", ylabel="rollouts per second")
    left.legend()
    right.semilogx(replicas, [o.replica_hours for o in fixed], color="C0", label="replica hours")
    right.set(xlabel="policy replicas", ylabel=f"replica hours of {JOB_ROLLOUTS:,} rollouts")
    right.set_ylim(bottom=0)
    time = right.twinx()
    time.loglog(replicas, [o.seconds for o in fixed], color="C1", label="seconds")
    time.loglog(replicas, [o.tail_seconds for o in fixed], "--", color="C1", label="of it, tail")
    time.set(ylabel="seconds")
    handles = [*right.get_lines(), *time.get_lines()]
    right.legend(handles, [str(line.get_label()) for line in handles], loc="center left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
