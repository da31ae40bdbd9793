"""A group, the rollouts of one task: a row for each, and the best and the worst of them to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gym_ray.conversation.card import Extract, S, counted
from gym_ray.conversation.overview import row_of, short_number, table_lines
from gym_ray.conversation.plain_text import plain_line
from gym_ray.conversation.rollout_text import rollout_text, width_of

_NAMES = ["repeat", "status", "reward", "tokens", "said"]

Advantages = Sequence[float | None]


def best_and_worst_text(
    rollouts: Iterable[S], *, width: int | None = None, extract: Extract[S] | None = None
) -> str:
    """The task whose rewards differ most, else the first one: a row for each of its rollouts, and
    the best and the worst of them to read.

    Args:
        rollouts: `gym_ray.Rollout` values, of one task or of many.
        width: as `rollout_text`.
        extract: as `rollout_text`.

    Raises:
        ValueError: there is none.
    """
    return group_text(_group_with_most_spread(rollouts), width=width, extract=extract)


def group_text(
    group: Sequence[S],
    *,
    advantages: Advantages | None = None,
    width: int | None = None,
    extract: Extract[S] | None = None,
) -> str:
    """The rollouts of a task: a row for each, and the best and the worst of them to read.

    Args:
        group: at least one rollout.
        advantages: one for each, if they are to be shown.
        width: as `rollout_text`.
        extract: as `rollout_text`.
    """
    cells = width_of(width)
    lines = [headline(group), "", *table_lines(*group_table(group, advantages), cells)]
    for title, rollout in to_read(group):
        shown = rollout_text(rollout, width=width, extract=extract)
        lines += ["", "-" * cells, f"{title}:", "", shown]
    return "\n".join(lines)


def best_and_worst(group: Sequence[S]) -> tuple[S, S]:
    """The rollouts with the highest and the lowest reward, the earlier one where there are several.

    Both are the same where no two rewards differ; failed rollouts count where there are no others.
    """
    judged = [rollout for rollout in group if rollout.reward is not None] or list(group)
    best = max(judged, key=_reward)
    worst = min(judged, key=_reward)
    return (best, worst) if _reward(best) > _reward(worst) else (best, best)


def headline(group: Sequence[S]) -> str:
    """Which task it is, and what became of its rollouts, on one line."""
    if not group:
        return "no rollouts"
    spec = group[0].spec
    rewards = [rollout.reward for rollout in group if rollout.reward is not None]
    where = f"Task {spec.task_index} of {plain_line(spec.environment or '(none)')}"
    failed = len(group) - len(rewards)
    parts = [f"{where}: {counted(len(group), 'rollout')}"]
    if rewards:
        low, high, mean = min(rewards), max(rewards), sum(rewards) / len(rewards)
        spread = f"reward {short_number(low)} to {short_number(high)}, mean {short_number(mean)}"
        parts.append(spread if low < high else f"reward {short_number(low)}")
    if failed:
        parts.append(f"{failed} failed")
    return ", ".join(parts)


def group_table(
    group: Sequence[S], advantages: Advantages | None
) -> tuple[list[str], list[list[str]]]:
    """Names of columns, and a row for each rollout."""
    rows = [row_of(rollout) for rollout in group]
    names = list(_NAMES)
    if advantages is not None:
        names.insert(3, "advantage")
        for row, advantage in zip(rows, advantages, strict=True):
            row["advantage"] = short_number(advantage)
    return names, [[row[name] for name in names] for row in rows]


def to_read(group: Sequence[S]) -> Iterator[tuple[str, S]]:
    """The rollouts worth reading, and what each of them is called."""
    best, worst = best_and_worst(group)
    if best is worst:
        yield "One of them", best
    else:
        yield "The best of them", best
        yield "The worst of them", worst


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
