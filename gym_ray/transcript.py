"""The transcript: the exact token sequences of a rollout as they grow, turn by turn.

A rollout whose history is only ever continued is one sequence. Where an agent edits or compacts
its history, or runs a second conversation beside the first, the transcript is a tree: each token
stands in it once, a turn hangs below the longest history its prompt starts with, and every path
from the root to a leaf is a training sample.

Owned here: the prefix invariant. Within a branch, a turn's prompt starts with the previous
turn's prompt followed by the previous turn's generation. A generation is kept or left whole: a
prompt that repeats only a part of one starts a branch before it, and the repeated tokens count
there as prompt. So no row can hold a re-tokenized history as something the policy sampled.

Not owned here: how messages become tokens (renderers), and which messages continue which
(conversation).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gym_ray.rollout import NO_LOGPROBS, NO_MASK, NO_TOKENS, Branch, LossMask
from gym_ray.turn import Generation, Logprobs, Tokens, Turn


class PrefixBroken(ValueError):
    """A turn's prompt does not continue the transcript. Names the first differing position."""


class Transcript:
    """Tokens, loss masks and logprobs of one rollout, its branches included.

    The final branch is the one of the newest turn, unless `end_with` names another; `token_ids`,
    `loss_mask`, `logprobs` and `turns` are its, and `side_branches` are the others.

    Example:
        >>> transcript = Transcript()
        >>> transcript.append([1, 2], generation)          # doctest: +SKIP
        0
        >>> transcript.token_ids.tolist()                  # doctest: +SKIP
        [1, 2, 7]
    """

    def __init__(self) -> None:
        self._root = _Piece(None, np.zeros(0, dtype=np.int32))
        self._taken: list[_Piece] = []
        self._end: _Piece | None = None

    def append(
        self,
        prompt_token_ids: Sequence[int] | Tokens,
        generation: Generation,
        *,
        tool_seconds: float = 0.0,
    ) -> int:
        """Add one policy call that continues the newest turn.

        Args:
            prompt_token_ids: [P] the whole prompt the policy saw, history included.
            generation: what it answered.
            tool_seconds: time spent in tools since the previous turn.

        Returns:
            The turn's number, from 0.

        Raises:
            PrefixBroken: the prompt does not start with the newest turn's prompt and
                generation. Nothing was added.
        """
        prompt = np.asarray(prompt_token_ids, dtype=np.int32)
        self._require_prefix(prompt)
        return self._hang(self._newest, prompt, generation, tool_seconds)

    def insert(
        self,
        prompt_token_ids: Sequence[int] | Tokens,
        generation: Generation,
        *,
        tool_seconds: float = 0.0,
        continues: int | None = None,
    ) -> int:
        """Add one policy call wherever its prompt belongs; its branch becomes the final one.

        The turn continues the turns whose prompt and generation its prompt starts with. Where
        that is not the newest turn, a branch begins.

        Args:
            prompt_token_ids: [P] the whole prompt the policy saw, history included.
            generation: what it answered.
            tool_seconds: time spent in tools since the turn it continues.
            continues: number of a turn whose prompt and generation the prompt starts with, where
                that is known; turns may have the same tokens.

        Returns:
            The turn's number, from 0.
        """
        prompt = np.asarray(prompt_token_ids, dtype=np.int32)
        below = self._root if continues is None else self._taken[continues]
        return self._hang(self._deepest(prompt, below), prompt, generation, tool_seconds)

    def end_with(self, turn: int) -> None:
        """Make the branch that ends with the turn of this number the final one, until another
        turn is added.
        """
        self._end = self._taken[turn]

    def path(self, turn: int) -> list[int]:
        """Numbers of the turns from the beginning to this one, which is the last."""
        return [piece.number for piece in self._taken[turn].path() if piece.turn is not None]

    def history(self, turn: int) -> tuple[Tokens, Tokens]:
        """Prompt int32 [P] and generation int32 [G] of the turn of this number."""
        piece = self._taken[turn]
        sequence = np.concatenate([step.token_ids for step in piece.path()])
        cut = len(sequence) - len(piece.token_ids)
        return sequence[:cut], sequence[cut:]

    @property
    def token_ids(self) -> Tokens:
        """int32 [T]: prompts and generations of the final branch, in order."""
        return np.concatenate([piece.token_ids for piece in self._last.path()])

    @property
    def logprobs(self) -> Logprobs:
        """float32 [T]: sampling logprob where sampled, 0 elsewhere."""
        return self._final.logprobs

    @property
    def loss_mask(self) -> LossMask:
        """int8 [T]: 1 where the policy sampled the token."""
        return self._final.loss_mask

    @property
    def turns(self) -> list[Turn]:
        """Policy calls on the final branch, in order."""
        return [piece.turn for piece in self._last.path() if piece.turn is not None]

    @property
    def turn_numbers(self) -> list[int]:
        """Numbers of the turns on the final branch, in order."""
        return [piece.number for piece in self._last.path() if piece.turn is not None]

    @property
    def side_branches(self) -> tuple[Branch, ...]:
        """The other branches, in the order of their newest turns.

        A generation that several branches share is masked in, with its logprobs, in one of
        them only: the final branch if it is there, else the first that has it. Elsewhere it is
        context. So training on all branches of a rollout counts each sampled token once.
        """
        return tuple(_branch(piece, without=seen) for piece, seen in self._sides())

    @property
    def side_turn_numbers(self) -> list[list[int]]:
        """Numbers of the turns that are masked in on each side branch."""
        return [
            [step.number for step in piece.path() if step.turn and id(step) not in seen]
            for piece, seen in self._sides()
        ]

    def _sides(self) -> Iterator[tuple[_Piece, set[int]]]:
        """The ends of the other branches, each with the `id` of all pieces of those before it."""
        seen = {id(piece) for piece in self._last.path()}
        for piece in self._taken:
            if piece.is_leaf and piece is not self._last:
                yield piece, set(seen)
                seen.update(id(step) for step in piece.path())

    @property
    def _newest(self) -> _Piece:
        return self._taken[-1] if self._taken else self._root

    @property
    def _last(self) -> _Piece:
        """The last piece of the final branch."""
        return self._newest if self._end is None else self._end

    @property
    def _final(self) -> Branch:
        return _branch(self._last, without=set())

    def _require_prefix(self, prompt: Tokens) -> None:
        history = np.concatenate([piece.token_ids for piece in self._newest.path()])
        if len(prompt) >= len(history) and np.array_equal(prompt[: len(history)], history):
            return
        at = _shared_length(prompt, history)
        raise PrefixBroken(
            f"turn {len(self._taken)}: its prompt of {len(prompt)} tokens does not continue the "
            f"{len(history)} tokens of the transcript; first difference at position {at}"
        )

    def _deepest(self, prompt: Tokens, begin: _Piece) -> _Piece:
        """The piece below which `prompt` goes on; prompt text is cut in two where it parts.

        `prompt` starts with the tokens down to `begin`.

        Most sampled tokens kept comes first, then most tokens shared, then the newest.
        """
        best, best_kept, best_end, best_number = begin, 0, begin.end, begin.number
        open_pieces = [(begin, 0)]
        while open_pieces:
            piece, kept = open_pieces.pop()
            for generation in piece.generations:
                if _continues(prompt, piece.end, generation.token_ids):
                    open_pieces.append((generation, kept + len(generation.token_ids)))
            end, rest = piece.end, prompt[piece.end :]
            text = piece.texts.get(int(rest[0])) if len(rest) else None
            if text is not None:
                end += _shared_length(rest, text.token_ids)
                if end == text.end:
                    open_pieces.append((text, kept))
                piece = text
            if (kept, end, piece.number) > (best_kept, best_end, best_number):
                best, best_kept, best_end, best_number = piece, kept, end, piece.number
        return best if best.end == best_end else best.cut_at(best_end)

    def _hang(
        self, below: _Piece, prompt: Tokens, generation: Generation, tool_seconds: float
    ) -> int:
        added = prompt[below.end :]
        if len(added):
            # A copy: a view would keep the whole prompt of every turn in memory.
            below = below.add_text(added.copy())
        turn = Turn(
            prompt_length=len(prompt),
            generation_length=len(generation.token_ids),
            stop_reason=generation.stop_reason,
            version_spans=generation.version_spans,
            queued_seconds=generation.queued_seconds,
            generation_seconds=generation.generation_seconds,
            tool_seconds=tool_seconds,
        )
        piece = _Piece(below, generation.token_ids, generation.logprobs, turn, len(self._taken))
        below.generations.append(piece)
        self._taken.append(piece)
        self._end = None
        return piece.number


class TokenlessTranscript:
    """Turns of a policy that returns no token IDs: lengths as it counts them, and no sequence.

    Reads like a `Transcript`.

    Attributes:
        turns: policy calls, in order; whoever takes a turn appends it.
    """

    token_ids: Tokens = NO_TOKENS
    loss_mask: LossMask = NO_MASK
    logprobs: Logprobs = NO_LOGPROBS
    side_branches: tuple[Branch, ...] = ()

    def __init__(self) -> None:
        self.turns: list[Turn] = []


class _Piece:
    """Tokens that follow one another: text put into a prompt, or one generation.

    Attributes:
        parent: what comes before; None for the empty root.
        token_ids, logprobs: its own tokens; no logprobs for text.
        turn, number: of the generation; None and -1 for text.
        end: tokens from the root to the end of this piece.
        texts: text that comes after, by its first token: no two begin alike.
        generations: sampled after this piece, oldest first.
    """

    __slots__ = (
        "end",
        "generations",
        "logprobs",
        "number",
        "parent",
        "texts",
        "token_ids",
        "turn",
    )

    def __init__(
        self,
        parent: _Piece | None,
        token_ids: Tokens,
        logprobs: Logprobs | None = None,
        turn: Turn | None = None,
        number: int = -1,
    ) -> None:
        self.parent = parent
        self.token_ids = token_ids
        self.logprobs = logprobs
        self.turn = turn
        self.number = number
        self.end: int = (parent.end if parent is not None else 0) + len(token_ids)
        self.texts: dict[int, _Piece] = {}
        self.generations: list[_Piece] = []

    @property
    def is_leaf(self) -> bool:
        return not self.texts and not self.generations

    def path(self) -> list[_Piece]:
        """From the root to this piece."""
        return [*reversed(list(self._upwards()))]

    def add_text(self, token_ids: Tokens) -> _Piece:
        text = _Piece(self, token_ids)
        self.texts[int(token_ids[0])] = text
        return text

    def cut_at(self, end: int) -> _Piece:
        """Cut this text in two and return the upper part, which ends at position `end`."""
        assert self.parent is not None
        length = end - self.parent.end
        upper = self.parent.add_text(self.token_ids[:length])
        self.parent, self.token_ids = upper, self.token_ids[length:]
        upper.texts[int(self.token_ids[0])] = self
        return upper

    def _upwards(self) -> Iterator[_Piece]:
        piece: _Piece | None = self
        while piece is not None:
            yield piece
            piece = piece.parent


def _branch(leaf: _Piece, *, without: set[int]) -> Branch:
    """The path to `leaf`; generations whose `id` is in `without` are context."""
    path = leaf.path()
    masks, logprobs = [], []
    for piece in path:
        sampled = piece.logprobs is not None and id(piece) not in without
        masks.append(np.full(len(piece.token_ids), sampled, dtype=np.int8))
        logprobs.append(
            piece.logprobs
            if sampled and piece.logprobs is not None
            else np.zeros(len(piece.token_ids), dtype=np.float32)
        )
    return Branch(
        token_ids=np.concatenate([piece.token_ids for piece in path]),
        loss_mask=np.concatenate(masks),
        logprobs=np.concatenate(logprobs),
    )


def _continues(prompt: Tokens, at: int, token_ids: Tokens) -> bool:
    return np.array_equal(prompt[at : at + len(token_ids)], token_ids)


def _shared_length(one: Tokens, other: Tokens) -> int:
    """How many first tokens the two have in common."""
    shared = min(len(one), len(other))
    differs = np.nonzero(one[:shared] != other[:shared])[0]
    return int(differs[0]) if len(differs) else shared
