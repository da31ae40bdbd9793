"""Metrics and comparisons for a person. Fractions are shown as percent too, and say so."""

from __future__ import annotations

from gym_ray.metrics.accumulator import Metrics, Spread
from gym_ray.metrics.comparison import Comparison, MeasureDifference
from gym_ray.metrics.metrics import MetricsReport

_BAR = 30


def render_metrics(report: MetricsReport) -> str:
    """A report as lines of text."""
    lines: list[str] = []
    parts = report.environments
    if len(parts) != 1:
        parts = {"all environments": report.overall, **parts}
    for name, metrics in parts.items():
        lines += [f"{name}:", *(f"  {line}" for line in _lines(metrics, report))]
    return "\n".join([*lines, *(f"note: {note}" for note in report.notes)])


def _lines(metrics: Metrics, report: MetricsReport) -> list[str]:
    level = f"{report.options.confidence:.4g}"
    lines = [
        f"{metrics.tasks} tasks, {metrics.expected} rollouts expected = "
        f"{metrics.completed} completed + {metrics.truncated} truncated + {metrics.failed} failed "
        f"+ {metrics.pending} pending"
    ]
    reward = metrics.reward
    if reward.mean is None:
        return [*lines, f"mean reward none (coverage {reward.coverage:.1%})", *_counts(metrics)]
    spread = "" if reward.std is None else f" ± {reward.std:.4f} std"
    lines.append(
        f"mean reward {reward.mean:.4f}{spread}{_interval(reward.interval, level)} "
        f"(coverage {reward.coverage:.1%} of rollouts)"
    )
    for name, score in metrics.scores.items():
        lines.append(
            f"{name:<13}{score.percent:8.3f} %  fraction {score.fraction:.4f}"
            f"{_interval(score.interval, level)}, {score.tasks} tasks "
            f"({score.task_coverage:.1%} of them)"
        )
    for k, entry in metrics.across_runs.items():
        lines.append(
            f"avg-of-{k} across runs: std {entry['std']:.4f}, "
            f"standard error {entry['standard_error']:.4f}"
        )
    lines.append(
        f"tasks never passed {metrics.never_passed}, sometimes {metrics.sometimes_passed}, always "
        f"{metrics.always_passed} (reward >= {report.options.success:g} passes)"
    )
    return [*lines, *_counts(metrics), *_histogram(metrics)]


def _counts(metrics: Metrics) -> list[str]:
    lines = []
    for title, counted in (
        ("truncated", metrics.truncation),
        ("failures", metrics.failure_kinds),
    ):
        if counted:
            kinds = ", ".join(f"{count} {kind}" for kind, count in counted.items())
            lines.append(f"{title}: {kinds}")
    for title, spread in (
        ("turns", metrics.turns),
        ("sampled tokens", metrics.sampled_tokens),
        ("tokens in all", metrics.tokens),
    ):
        if spread is not None:
            lines.append(f"{title} per rollout: {_spread(spread)}")
    if metrics.retried:
        difference = metrics.retried_reward_difference
        note = "" if difference is None else f", mean reward {difference:+.3f} against first tries"
        lines.append(f"{metrics.retried} rollouts took more than one attempt{note}")
    return lines


def _histogram(metrics: Metrics) -> list[str]:
    most = max(count for _, _, count in metrics.histogram)
    lines = ["rewards:"]
    for low, high, count in metrics.histogram:
        label = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        lines.append(f"  {label:>18} {count:8d} {'#' * round(_BAR * count / most)}".rstrip())
    return lines


def render_comparison(comparison: Comparison) -> str:
    """A comparison as lines of text."""
    level = f"{comparison.options.confidence:.4g}"
    lines = [
        comparison.statement,
        f"A: {comparison.a}",
        f"B: {comparison.b}",
        f"{comparison.reward.tasks} tasks compared; left out: {comparison.only_a} only in A, "
        f"{comparison.only_b} only in B, {comparison.unrewarded} without a reward in one of them",
        f"{'reward':<13}{_difference(comparison.reward, level)}",
    ]
    if len(comparison.environments) > 1:
        for name, difference in comparison.environments.items():
            lines.append(f"  {name}: {_difference(difference, level)}")
    for name, difference in comparison.scores.items():
        lines.append(f"{name:<13}{_difference(difference, level)}")
    lines.append("fractions, not percent; p-values of single measures, not corrected for several")
    return "\n".join([*lines, *(f"note: {note}" for note in comparison.notes)])


def _difference(difference: MeasureDifference, level: str) -> str:
    return (
        f"{difference.before:.4f} -> {difference.after:.4f}, difference "
        f"{difference.difference:+.4f}{_interval(difference.interval, level)}, p "
        f"{difference.p_value:.4g}; of {difference.tasks} tasks {difference.raised} raised, "
        f"{difference.lowered} lowered"
    )


def _interval(interval: tuple[float, float] | None, level: str) -> str:
    if interval is None:
        return ""
    return f" [{interval[0]:.4f}, {interval[1]:.4f}] at {level}"


def _spread(spread: Spread) -> str:
    return (
        f"mean {spread.mean:.1f}, min {spread.min:g}, median {spread.median:g}, "
        f"p90 {spread.p90:g}, max {spread.max:g}"
    )
