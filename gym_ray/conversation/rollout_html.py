"""A rollout as HTML, for a notebook."""

from __future__ import annotations

from collections.abc import Iterator

from gym_ray.conversation.card import Extract, Passage, S, card_of
from gym_ray.conversation.html import block, frame, heading, table_html

_MARKS = {"call": "→ ", "result": "← "}


def rollout_html(rollout: S, extract: Extract[S] | None = None) -> str:
    """A rollout to read: the conversation, then the verdict beside what was expected.

    Args:
        rollout: a `gym_ray.Rollout`.
        extract: as `rollout_text.rollout_text`.
    """
    return frame(*parts_of(rollout, extract))


def parts_of(rollout: S, extract: Extract[S] | None = None) -> Iterator[str]:
    """The same in pieces, to be put into a frame."""
    card = card_of(rollout, extract)
    yield heading(card.title)
    for speech in card.speeches:
        yield heading(speech.who, speech.note)
        yield from map(_passage, speech.passages)
    yield heading("verdict")
    yield table_html((), card.facts)


def _passage(passage: Passage) -> str:
    is_folded = passage.kind == "reasoning"
    mark = _MARKS.get(passage.kind, "")
    return block(passage.text, mark=mark, name=passage.kind, is_folded=is_folded)
