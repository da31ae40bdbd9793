"""The command `gym-ray metrics`, from its arguments to the text it prints."""

from __future__ import annotations

from gym_ray.errors import ConfigError
from gym_ray.metrics.comparison import compare
from gym_ray.metrics.metrics import metrics
from gym_ray.metrics.task_scores import Options
from gym_ray.metrics.text import render_comparison, render_metrics
from gym_ray.progress import Progress

#: Rollouts between two lines of progress.
_SAY_EVERY = 100_000


def run_metrics(
    rollouts: str,
    other: str | None,
    *,
    ks: str | None,
    success: float,
    confidence: float,
    resamples: int,
    seed: int,
    tasks: str | None,
    as_json: bool,
    quiet: bool,
) -> str:
    """See `gym-ray metrics --help`.

    Raises:
        ConfigError: an argument is wrong.
    """
    options = Options(_parsed(ks), success, confidence, resamples, seed)
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
            found = metrics(rollouts, options, tasks=tasks, report=report)
            return found.to_json() if as_json else render_metrics(found)
        comparison = compare(rollouts, other, options, report=report)
        return comparison.to_json() if as_json else render_comparison(comparison)


def _parsed(ks: str | None) -> tuple[int, ...] | None:
    if ks is None:
        return None
    try:
        return tuple(sorted({int(part) for part in ks.split(",")}))
    except ValueError:
        raise ConfigError(f"--k {ks!r}: write whole numbers, e.g. 1,4,16") from None
