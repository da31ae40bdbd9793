"""Metrics and comparisons for a person: scores in percent, with k in columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from gym_ray.metrics.accumulator import Metrics, Spread
from gym_ray.metrics.comparison import Comparison, MeasureDifference
from gym_ray.metrics.metrics import MetricsReport

T = TypeVar("T")

_BAR = 30

#: Cells of a row by k.
_Cells = Mapping[int, str]


def render_metrics(report: MetricsReport) -> str:
    """A report as lines of text."""
    lines: list[str] = []
    parts = report.environments
    if len(parts) != 1:
        parts = {"all environments": report.overall, **parts}
    for name, metrics in parts.items():
        lines += [f"{name}:", *(f"  {line}".rstrip() for line in _lines(metrics, report))]
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
    lines += ["", *_scores(metrics, level), ""]
    lines.append(
        f"tasks never passed {metrics.never_passed}, sometimes {metrics.sometimes_passed}, always "
        f"{metrics.always_passed} (reward >= {report.options.success:g} passes)"
    )
    return [*lines, *_counts(metrics), *_histogram(metrics)]


def _scores(metrics: Metrics, level: str) -> list[str]:
    """Scores at k as a table, each over its interval; below it those that have no k."""
    measures = _by_measure(metrics.scores)
    rows: list[tuple[str, _Cells]] = []
    counts: _Cells = {}
    for measure, scores in measures.items():
        rows.append((f"{measure}k", {k: f"{score.percent:.2f}" for k, score in scores.items()}))
        rows.append(("", {k: _bounds(score.interval) for k, score in scores.items()}))
        tasks = {k: str(score.tasks) for k, score in scores.items()}
        counts = counts or tasks
        if tasks != counts:
            rows.append(("  of tasks", tasks))
    for title, part in (("std across runs", "std"), ("standard error", "standard_error")):
        cells = {int(k): f"{100 * entry[part]:.2f}" for k, entry in metrics.across_runs.items()}
        rows += [(title, cells)] * bool(cells)
    rows.append(("of tasks", counts))
    lines = _table(f"percent [at {level}]", rows)
    for name, score in metrics.scores.items():
        if _MEASURE.fullmatch(name) is None:
            lines.append(
                f"{name} {score.percent:.2f} % {_bounds(score.interval)}, {score.tasks} tasks"
            )
    return lines


#: A measure and its k, as `pass@4`.
_MEASURE = re.compile(r"(.*?)(\d+)")


def _by_measure(values: Mapping[str, T]) -> dict[str, dict[int, T]]:
    """Values of measures at k, by measure and k."""
    measures: dict[str, dict[int, T]] = {}
    for name, value in values.items():
        if found := _MEASURE.fullmatch(name):
            measures.setdefault(found[1], {})[int(found[2])] = value
    return measures


def _table(title: str, rows: Sequence[tuple[str, _Cells]]) -> list[str]:
    """Rows, each under its label, with a column for every k."""
    ks = sorted({k for _, cells in rows for k in cells})
    shown = [(title, {k: f"k={k}" for k in ks}), *rows]
    widths = {k: max(len(cells.get(k, "")) for _, cells in shown) for k in ks}
    width = max(len(label) for label, _ in shown)
    return [
        "  ".join([f"{label:{width}}", *(f"{cells.get(k, ''):>{widths[k]}}" for k in ks)])
        for label, cells in shown
    ]


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
        f"reward: {_difference(comparison.reward, level)}",
    ]
    if len(comparison.environments) > 1:
        for name, difference in comparison.environments.items():
            lines.append(f"  {name}: {_difference(difference, level)}")
    if comparison.scores:
        lines += ["", *_score_differences(comparison.scores, level), ""]
    lines.append("p-values are of single measures, not corrected for several")
    lines += [f"note: {note}" for note in comparison.notes]
    return "\n".join(line.rstrip() for line in lines)


def _score_differences(scores: Mapping[str, MeasureDifference], level: str) -> list[str]:
    """Measures at k as a table: both runs, and how far they are apart."""
    rows: list[tuple[str, _Cells]] = []
    counts: _Cells = {}
    for measure, at in _by_measure(scores).items():
        rows += [
            (f"{measure}k", {}),
            ("  A", {k: f"{100 * score.before:.2f}" for k, score in at.items()}),
            ("  B", {k: f"{100 * score.after:.2f}" for k, score in at.items()}),
            ("  B - A", {k: f"{100 * score.difference:+.2f}" for k, score in at.items()}),
            ("", {k: _bounds(score.interval, "+") for k, score in at.items()}),
            ("  p", {k: f"{score.p_value:.4g}" for k, score in at.items()}),
        ]
        tasks = {k: str(score.tasks) for k, score in at.items()}
        counts = counts or tasks
        if tasks != counts:
            rows.append(("  of tasks", tasks))
    return _table(f"percent [at {level}]", [*rows, ("of tasks", counts)])


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


def _bounds(interval: tuple[float, float] | None, sign: str = "") -> str:
    """An interval of fractions, in percent."""
    if interval is None:
        return ""
    return f"[{100 * interval[0]:{sign}.1f}, {100 * interval[1]:{sign}.1f}]"


def _spread(spread: Spread) -> str:
    return (
        f"mean {spread.mean:.1f}, min {spread.min:g}, median {spread.median:g}, "
        f"p90 {spread.p90:g}, max {spread.max:g}"
    )
