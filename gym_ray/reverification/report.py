"""What verifying anew changed, for a person."""

from __future__ import annotations

from gym_ray.collection.report import reward_text
from gym_ray.errors import FailedShareExceeded, GymRayError, Interrupted
from gym_ray.reverification.reward_changes import Changes, ReverifyReport
from gym_ray.store.log_file import log_of, note_log
from gym_ray.store.places import open_path


def demand_complete(report: ReverifyReport) -> None:
    """Refuse a reverification that is not whole.

    Raises:
        Interrupted: it was told to stop.
        FailedShareExceeded: too many verifications failed.
        GymRayError: rollouts are left for another reason.
    """
    try:
        _demand_complete(report)
    except GymRayError as error:
        note_log(error, log_of(open_path(report.output)))
        raise


def _demand_complete(report: ReverifyReport) -> None:
    again = "re-issue the same command to continue"
    if report.interrupted is not None:
        raise Interrupted(
            f"stopped early ({report.interrupted}); {report.pending} rollouts are left: {again}"
        )
    if report.pending:
        raise GymRayError(f"{report.pending} rollouts are left; {again}")
    if report.failed_share > report.max_failed_share:
        raise FailedShareExceeded(
            f"{report.changes.failed_now} of {report.changes.rollouts} verifications failed, more "
            f"than collect.max_failed_share={report.max_failed_share:g} allows"
        )


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
