"""A summary for a person."""

from __future__ import annotations

from gym_ray.collection.summary import Reward, RunSummary
from gym_ray.errors import FailedShareExceeded, GymRayError, Interrupted
from gym_ray.store.log_file import log_of, note_log
from gym_ray.store.places import open_path
from gym_ray.telemetry.progress import duration


def render(summary: RunSummary) -> str:
    """The summary as a few lines of text."""
    lines = [
        f"{summary.expected} rollouts expected = {summary.completed} completed + "
        f"{summary.truncated} truncated + {summary.failed} failed + {summary.pending} pending",
        f"reward {reward_text(summary.reward)}",
    ]
    for name, part in summary.environments.items():
        lines.append(f"  {name}: reward {reward_text(Reward(**part['reward']))}")
    if summary.failure_kinds:
        kinds = ", ".join(f"{count} {kind}" for kind, count in summary.failure_kinds.items())
        lines.append(f"failures: {kinds}")
    lines += [f"  {message}" for message in summary.invalid_rows]
    if summary.retried:
        difference = summary.retried_reward_difference
        note = "" if difference is None else f", mean reward {difference:+.3f} against first tries"
        lines.append(f"{summary.retried} rollouts took more than one attempt{note}")
    for name, groups in summary.group_failures.items():
        lines.append(
            f"{groups} groups could not be judged by group verifier {name}: their rollouts keep "
            "the rewards they had"
        )
    if summary.without_token_ids:
        lines.append(
            f"{summary.without_token_ids} rollouts have no tokens, because the policy returns "
            "none: they serve SFT and DPO, not RL"
        )
    if summary.collecting_seconds:
        lines.append(
            f"{summary.sampled_tokens:,} tokens sampled; {duration(summary.collecting_seconds)} "
            f"collecting, {duration(summary.seconds)} in all"
        )
    where = "rollouts/*.parquet" if summary.shards else "segments/ (run not complete)"
    lines.append(f"dataset: {summary.output}/{where}")
    return "\n".join(lines)


def demand_complete(
    summary: RunSummary, *, max_failed_share: float, again: str = "re-issue the same command"
) -> None:
    """Refuse a run that is not whole.

    Args:
        summary: of the run.
        max_failed_share: of its rollouts.
        again: what continues it, for messages.

    Raises:
        Interrupted: it was told to stop, and rollouts, or groups to judge, are left.
        FailedShareExceeded: too many rollouts failed.
        GymRayError: rollouts are left for another reason.
    """
    try:
        _demand_complete(summary, max_failed_share, again)
    except GymRayError as error:
        note_log(error, log_of(open_path(summary.output)))
        raise


def _demand_complete(summary: RunSummary, max_failed_share: float, again: str) -> None:
    if summary.interrupted is not None and not summary.pending and not summary.shards:
        raise Interrupted(
            f"stopped early ({summary.interrupted}); every rollout is there, and groups are not "
            f"judged yet: {again} to have that done"
        )
    if summary.interrupted is not None and summary.pending:
        raise Interrupted(
            f"stopped early ({summary.interrupted}); {summary.pending} rollouts are left: "
            f"{again} to continue"
        )
    if summary.failed_share > max_failed_share:
        raise FailedShareExceeded(
            f"{summary.failed} of {summary.expected} rollouts failed, more than "
            f"collect.max_failed_share={max_failed_share:g} allows"
        )
    if summary.pending:
        raise GymRayError(f"{summary.pending} rollouts are left; {again} to continue")


def reward_text(reward: Reward) -> str:
    """A mean with its spread and coverage, in one line."""
    if reward.mean is None:
        return f"none (coverage {reward.coverage:.1%})"
    spread = "" if reward.std is None else f" ± {reward.std:.4f}"
    return f"{reward.mean:.4f}{spread} (coverage {reward.coverage:.1%})"
