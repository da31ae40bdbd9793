"""`gym-ray metrics`: numbers of a run, or of two."""

from __future__ import annotations

from typing import Annotated

import typer

from gym_ray.cli.arguments import Quiet, Rollouts, TrustRun
from gym_ray.errors import ConfigError

#: Rollouts between two lines of progress.
_SAY_EVERY = 100_000


def metrics(
    rollouts: Rollouts,
    other: Annotated[
        str | None,
        typer.Argument(metavar="[ROLLOUTS_B]", help="A second run, to compare with the first."),
    ] = None,
    k: Annotated[
        str | None,
        typer.Option("--k", metavar="K,…", help="k of the scores at k; by default 1, 2, 4, …"),
    ] = None,
    success: Annotated[
        float, typer.Option("--success", help="Rewards from here on count as passed.")
    ] = 1.0,
    confidence: Annotated[
        float,
        typer.Option(
            "--confidence", help="Confidence level of the intervals and of the comparison."
        ),
    ] = 0.95,
    resamples: Annotated[
        int, typer.Option("--resamples", help="Bootstrap resamples and random sign changes.")
    ] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap resamples.")] = 0,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="FILE", help="Write the scores of every task, as JSONL."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the metrics as JSON on standard output.")
    ] = False,
    trust_run: TrustRun = False,
    quiet: Quiet = False,
) -> None:
    """Measure a run, or compare two on the same tasks.

    Mean reward and pass@k with intervals, failures, turns and tokens. With a second run, compares
    both on the tasks they share, paired, and says whether the difference is significant.
    Definitions are in docs/metrics.md.

    Example:

      gym-ray metrics runs/demo

      gym-ray metrics runs/before runs/after --json
    """
    from gym_ray.metrics.comparison import compare
    from gym_ray.metrics.metrics import metrics as measure
    from gym_ray.metrics.task_scores import Options
    from gym_ray.metrics.text import render_comparison, render_metrics
    from gym_ray.telemetry.progress import Progress

    options = Options(_parsed(k), success, confidence, resamples, seed, trust_run)
    if other is not None and tasks is not None:
        raise ConfigError("--tasks is of one run; give it without ROLLOUTS_B")
    with Progress(quiet=quiet) as progress:
        spoken = 0

        def report(read: int) -> None:
            nonlocal spoken
            if read // _SAY_EVERY != spoken:
                spoken = read // _SAY_EVERY
                if spoken:
                    progress.say(f"{read:,} rollouts read")

        if other is None:
            found = measure(rollouts, options, tasks=tasks, report=report)
            text = found.to_json() if json else render_metrics(found)
        else:
            comparison = compare(rollouts, other, options, report=report)
            text = comparison.to_json() if json else render_comparison(comparison)
    typer.echo(text)


def _parsed(ks: str | None) -> tuple[int, ...] | None:
    if ks is None:
        return None
    try:
        return tuple(sorted({int(part) for part in ks.split(",")}))
    except ValueError:
        raise ConfigError(f"--k {ks!r}: write whole numbers, e.g. 1,4,16") from None
