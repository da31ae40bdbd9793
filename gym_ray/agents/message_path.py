"""How far a conversation leads into a tree of messages.

Owned here: messages as nodes, and taking the pieces of a conversation one by one, in any order that
says the same. Not owned here: what pieces are, and when they say the same (same_message).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

from gym_ray.agents.same_message import Piece

#: Pieces of text that one message may come back as: reasoning, and what was said.
MOST_TEXTS = 3


class MessageNode:
    """A message, after all those above it.

    Attributes:
        said: its pieces; none for the beginning.
        turn: number of the turn that sampled it; None when it was given.
        after: the messages after it, in the order they were added.
    """

    __slots__ = ("_before", "after", "said", "turn")

    def __init__(
        self, said: Sequence[Piece], before: MessageNode | None, turn: int | None = None
    ) -> None:
        self.said = tuple(said)
        self.turn = turn
        self.after: list[MessageNode] = []
        self._before = before

    def add(self, said: Sequence[Piece], turn: int | None = None) -> MessageNode:
        node = MessageNode(said, self, turn)
        self.after.append(node)
        return node

    def call_ids(self) -> list[str | None]:
        """IDs of all calls down to this message, in order: the place of each is its number."""
        node: MessageNode | None = self
        found: list[str | None] = []
        while node is not None:
            found += [piece.call_id for piece in reversed(node.said) if piece.kind == "call"]
            node = node._before
        return found[::-1]


@dataclasses.dataclass(frozen=True, slots=True)
class MessagePath:
    """A way into the tree that the pieces of a conversation lead.

    Attributes:
        node: the last message on its way.
        pieces: of the whole conversation.
        next: number of the first piece that was not looked at.
        aside: earlier pieces that were passed over: calls and outputs.
        last: the pieces that were taken for `node`.
    """

    node: MessageNode
    pieces: tuple[Piece, ...]
    next: int
    aside: tuple[Piece, ...] = ()
    last: tuple[Piece, ...] = ()

    @property
    def key(self) -> Hashable:
        """What leads on alike where it is equal."""
        return id(self.node), self.next, tuple(map(id, self.aside))

    @property
    def taken(self) -> int:
        """How many pieces are on the way."""
        return self.next - len(self.aside)

    def rest(self) -> Iterator[Piece]:
        """Pieces that are not on the way."""
        yield from self.aside
        for number in range(self.next, len(self.pieces)):
            yield self.pieces[number]

    def rest_by_message(self) -> Iterator[list[Piece]]:
        """The same, those of one message together."""
        for _, pieces in itertools.groupby(self.rest(), key=lambda piece: piece.message):
            yield list(pieces)

    def texts(self) -> tuple[Piece, ...]:
        """The texts that come next, one after the other."""
        if self.aside:
            return ()
        ahead = self.pieces[self.next : self.next + MOST_TEXTS]
        return tuple(itertools.takewhile(lambda piece: piece.kind == "text", ahead))

    def behind_texts(self, number: int) -> MessagePath:
        """The place behind some of `texts`."""
        end = self.next + number
        return MessagePath(self.node, self.pieces, end, self.aside, self.pieces[self.next : end])

    def at(self, node: MessageNode) -> MessagePath:
        """The same way, which has led to `node`."""
        return MessagePath(node, self.pieces, self.next, self.aside, self.last)

    def without(self, said: Piece) -> MessagePath | None:
        """The place behind a piece; None where it does not come next.

        A call may be behind outputs, an output behind calls and other outputs.
        """
        passed = {"told": (), "call": ("output",), "output": ("call", "output")}[said.kind]
        for number, piece in enumerate(self.rest()):
            if piece.kind == said.kind and piece.key == said.key:
                return self._take(number)
            if piece.kind not in passed or piece.has_place:
                return None
        return None

    def is_between_messages(self) -> bool:
        """Whether no message is half on the way."""
        if any(piece.kind == "call" for piece in self.aside):
            left = {piece.message for piece in self.rest()}
            parts = Counter(piece.message for piece in self.pieces if piece.message in left)
            return parts == Counter(piece.message for piece in self.rest())
        inside = 0 < self.next < len(self.pieces)
        return not inside or self.pieces[self.next].message != self.pieces[self.next - 1].message

    def has_ids(self) -> bool:
        """Whether calls came back with the IDs they were told with."""
        told = [piece.call_id for piece in self.node.said if piece.kind == "call"]
        return bool(told) and told == [piece.call_id for piece in self.last if piece.kind == "call"]

    def _take(self, number: int) -> MessagePath:
        """The place behind one of `rest`."""
        waiting = len(self.aside)
        if number < waiting:
            after, aside = self.next, (*self.aside[:number], *self.aside[number + 1 :])
            piece = self.aside[number]
        else:
            after = self.next + number - waiting + 1
            aside = (*self.aside, *self.pieces[self.next : after - 1])
            piece = self.pieces[after - 1]
        return MessagePath(self.node, self.pieces, after, aside, (*self.last, piece))
