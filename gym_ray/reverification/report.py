"""What verifying anew changed, for a person."""

from __future__ import annotations

from gym_ray.collection.report import reward_text
from gym_ray.reverification.reward_changes import Changes, ReverifyReport


def render_changes(report: ReverifyReport) -> str:
    """What verifying anew changed, as a few lines of text."""
    changes = report.changes
    lines = [
        f"{changes.rollouts} rollouts = {changes.judged} judged anew + {changes.kept} kept + "
        f"{changes.failed_now} failed now + {changes.failed_before} failed before"
        + (f"; {report.pending} pending" if report.pending else ""),
        _change(changes),
    ]
    if len(report.environments) > 1:
        lines += [f"  {name}: {_change(part)}" for name, part in report.environments.items()]
    if changes.diverged:
        lines.append(
            f"{changes.diverged} replays diverged: tools or steps did not give again what the "
            "rows say"
        )
    if report.kept:
        reasons = ", ".join(f"{count} {why}" for why, count in report.kept.items())
        lines.append(f"kept, as their state cannot be rebuilt: {reasons}")
    if report.failures:
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.failures.items())
        lines.append(f"failures: {kinds}")
        lines += [f"  {row['rollout_id']} {row['error']}" for row in report.first_failures[:5]]
    lines += [
        f"  {row['rollout_id']} {row['environment']} task {row['task_index']}: "
        f"{row['before']:g} -> {row['after']:g}"
        for row in report.largest
    ]
    return "\n".join([*lines, f"dataset: {report.output}; changes: {report.output}/reverify.json"])


def _change(changes: Changes) -> str:
    return (
        f"reward {reward_text(changes.before)} -> {reward_text(changes.after)}; "
        f"{changes.raised} raised, "
        f"{changes.lowered} lowered, {changes.recovered} recovered"
    )
