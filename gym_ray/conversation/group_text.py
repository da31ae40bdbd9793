"""The best and the worst of a group, for a person who wants to see what a run is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gym_ray.conversation.card import Extract, S, count
from gym_ray.conversation.plain_text import plain_line
from gym_ray.conversation.rollout_text import rollout_text, width_of


def best_and_worst_text(
    rollouts: Iterable[S], *, width: int | None = None, extract: Extract[S] | None = None
) -> str:
    """The best and the worst rollout of the task whose rewards differ most, to read; else of the
    first one.

    Args:
        rollouts: `gym_ray.Rollout` values, of one task or of many.
        width: as `rollout_text`.
        extract: as `rollout_text`.

    Raises:
        ValueError: there is none.
    """
    group = _group_with_most_spread(rollouts)
    rule = "-" * width_of(width)

    def shown(title: str, rollout: S) -> list[str]:
        return ["", rule, title, "", rollout_text(rollout, width=width, extract=extract)]

    best, worst = best_and_worst(group)
    lines = [_headline(group)]
    if best is worst:
        lines += shown("One of them:", best)
    else:
        lines += [*shown("The best of them:", best), *shown("The worst of them:", worst)]
    return "\n".join(lines)


def best_and_worst(group: Sequence[S]) -> tuple[S, S]:
    """The rollouts with the highest and the lowest reward, the earlier one where there are several.

    Both are the same where no two rewards differ; failed rollouts count where there are no others.
    """
    judged = [rollout for rollout in group if rollout.reward is not None] or list(group)
    best = max(judged, key=_reward)
    worst = min(judged, key=_reward)
    return (best, worst) if _reward(best) > _reward(worst) else (best, best)


def _group_with_most_spread(rollouts: Iterable[S]) -> list[S]:
    groups: dict[tuple[str, str], list[S]] = {}
    for rollout in rollouts:
        groups.setdefault((rollout.spec.environment, rollout.spec.task_id), []).append(rollout)
    if not groups:
        raise ValueError("there is no rollout to show")
    return max(groups.values(), key=_spread)


def _spread(group: Sequence[S]) -> tuple[bool, float]:
    rewards = [rollout.reward for rollout in group if rollout.reward is not None]
    return bool(rewards), max(rewards) - min(rewards) if rewards else 0.0


def _reward(rollout: S) -> float:
    return rollout.reward or 0.0


def _headline(group: Sequence[S]) -> str:
    spec = group[0].spec
    rewards = [rollout.reward for rollout in group if rollout.reward is not None]
    where = f"Task {spec.task_index} of {plain_line(spec.environment or '(none)')}"
    failed = len(group) - len(rewards)
    parts = [f"{where}: {count(len(group), 'rollout')}"]
    if rewards:
        low, high, mean = min(rewards), max(rewards), sum(rewards) / len(rewards)
        parts.append(
            f"reward {low:g} to {high:g}, mean {mean:.3g}" if low < high else f"reward {low:g}"
        )
    if failed:
        parts.append(f"{failed} failed")
    return ", ".join(parts)
