"""A group as HTML, for a notebook."""

from __future__ import annotations

from collections.abc import Sequence

from gym_ray.conversation.card import S
from gym_ray.conversation.group_text import Advantages, group_table, headline, to_read
from gym_ray.conversation.html import folded, frame, heading, table_html
from gym_ray.conversation.rollout_html import parts_of


def group_html(group: Sequence[S], *, advantages: Advantages | None = None) -> str:
    """The rollouts of a task: a row for each, and the best and the worst of them, folded.

    Args:
        group: at least one rollout.
        advantages: one for each, if they are to be shown.
    """
    shown = [folded(title, "".join(parts_of(rollout))) for title, rollout in to_read(group)]
    return frame(heading(headline(group)), table_html(*group_table(group, advantages)), *shown)
