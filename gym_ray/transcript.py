"""The transcript: the exact token sequence of a rollout as it grows, turn by turn.

Owned here: the prefix invariant. Within a transcript, a turn's prompt starts with the
previous turn's prompt followed by the previous turn's generation. Appending a turn whose
prompt does not is refused, so no row can hold a re-tokenized history.

Not owned here: how messages become tokens (renderers) and what the messages were.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gym_ray.turn import Generation, Logprobs, Tokens, Turn


class PrefixBroken(ValueError):
    """A turn's prompt does not continue the transcript. Names the first differing position."""


class Transcript:
    """Tokens, loss mask and logprobs of one linear rollout.

    Example:
        >>> transcript = Transcript()
        >>> transcript.append([1, 2], generation)          # doctest: +SKIP
        >>> transcript.token_ids.tolist()                  # doctest: +SKIP
        [1, 2, 7]
    """

    def __init__(self) -> None:
        self._pieces: list[Tokens] = []
        self._logprobs: list[Logprobs] = []
        self._sampled: list[bool] = []
        self._length = 0
        self.turns: list[Turn] = []

    def append(
        self,
        prompt_token_ids: Sequence[int] | Tokens,
        generation: Generation,
        *,
        tool_seconds: float = 0.0,
    ) -> None:
        """Add one policy call.

        Args:
            prompt_token_ids: [P] the whole prompt the policy saw, history included.
            generation: what it answered.
            tool_seconds: time spent in tools since the previous turn.

        Raises:
            PrefixBroken: the prompt does not start with the tokens already here.
        """
        prompt = np.asarray(prompt_token_ids, dtype=np.int32)
        self._require_prefix(prompt)
        added = prompt[self._length :]
        self._push(added, np.zeros(len(added), dtype=np.float32), sampled=False)
        self._push(generation.token_ids, generation.logprobs, sampled=True)
        self.turns.append(
            Turn(
                prompt_length=len(prompt),
                generation_length=len(generation.token_ids),
                stop_reason=generation.stop_reason,
                version_spans=generation.version_spans,
                queued_seconds=generation.queued_seconds,
                generation_seconds=generation.generation_seconds,
                tool_seconds=tool_seconds,
            )
        )

    @property
    def token_ids(self) -> Tokens:
        """int32 [T]: prompts and generations, in order."""
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, dtype=np.int32)

    @property
    def logprobs(self) -> Logprobs:
        """float32 [T]: sampling logprob where sampled, 0 elsewhere."""
        return np.concatenate(self._logprobs) if self._logprobs else np.zeros(0, dtype=np.float32)

    @property
    def loss_mask(self) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
        """int8 [T]: 1 where the policy sampled the token."""
        lengths = [len(piece) for piece in self._pieces]
        return np.repeat(np.asarray(self._sampled, dtype=np.int8), lengths)

    def _require_prefix(self, prompt: Tokens) -> None:
        history = self.token_ids
        if len(prompt) >= len(history) and np.array_equal(prompt[: len(history)], history):
            return
        shared = min(len(prompt), len(history))
        differs = np.nonzero(prompt[:shared] != history[:shared])[0]
        at = int(differs[0]) if len(differs) else shared
        raise PrefixBroken(
            f"turn {len(self.turns)}: its prompt of {len(prompt)} tokens does not continue the "
            f"{len(history)} tokens of the transcript; first difference at position {at}"
        )

    def _push(self, token_ids: Tokens, logprobs: Logprobs, *, sampled: bool) -> None:
        self._pieces.append(token_ids)
        self._logprobs.append(logprobs)
        self._sampled.append(sampled)
        self._length += len(token_ids)
