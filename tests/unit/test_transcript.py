"""The transcript: history is continued verbatim or refused, and only sampled tokens are masked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_ray.transcript import PrefixBroken, Transcript
from gym_ray.turn import Generation, Tokens, VersionSpan

TOKENS = st.lists(st.integers(0, 200_000), max_size=6)
#: Per turn: the new prompt tokens and the sampled ones.
TURNS = st.lists(st.tuples(TOKENS, TOKENS), max_size=5)


def generation(token_ids: list[int]) -> Generation:
    return Generation(
        token_ids=np.array(token_ids, dtype=np.int32),
        logprobs=-np.arange(1, len(token_ids) + 1, dtype=np.float32),
        stop_reason="stop",
        version_spans=(VersionSpan(0, 0, len(token_ids)),),
        queued_seconds=0.25,
        generation_seconds=0.5,
    )


def grown(turns: list[tuple[list[int], list[int]]]) -> tuple[Transcript, list[Tokens]]:
    """A transcript of these turns, and the prompt of each."""
    transcript = Transcript()
    prompts = []
    for added, sampled in turns:
        prompt = np.concatenate([transcript.token_ids, np.array(added, dtype=np.int32)])
        transcript.append(prompt, generation(sampled))
        prompts.append(prompt)
    return transcript, prompts


@settings(max_examples=30)
@given(TURNS)
def test_only_sampled_tokens_have_mask_and_logprob(
    turns: list[tuple[list[int], list[int]]],
) -> None:
    transcript, _ = grown(turns)

    tokens = [token for added, sampled in turns for token in added + sampled]
    mask = [bit for added, sampled in turns for bit in [0] * len(added) + [1] * len(sampled)]
    logprobs = [
        value
        for added, sampled in turns
        for value in [0.0] * len(added) + [-float(n + 1) for n in range(len(sampled))]
    ]
    assert (transcript.token_ids.dtype, transcript.token_ids.tolist()) == (np.int32, tokens)
    assert (transcript.loss_mask.dtype, transcript.loss_mask.tolist()) == (np.int8, mask)
    assert (transcript.logprobs.dtype, transcript.logprobs.tolist()) == (np.float32, logprobs)


@settings(max_examples=30)
@given(TURNS)
def test_each_turns_prompt_and_generation_are_found_by_their_lengths(
    turns: list[tuple[list[int], list[int]]],
) -> None:
    transcript, prompts = grown(turns)

    sequence = transcript.token_ids.tolist()
    for turn, prompt, (_, sampled) in zip(transcript.turns, prompts, turns, strict=True):
        end = turn.prompt_length + turn.generation_length
        assert sequence[: turn.prompt_length] == prompt.tolist()
        assert sequence[turn.prompt_length : end] == sampled


@settings(max_examples=30)
@given(TURNS, st.data())
def test_a_prompt_that_rewrites_history_is_refused_and_changes_nothing(
    turns: list[tuple[list[int], list[int]]], data: st.DataObject
) -> None:
    transcript, _ = grown([*turns, ([1], [2])])
    history = transcript.token_ids
    at = data.draw(st.integers(0, len(history) - 1))
    edited = history.copy()
    edited[at] += 1
    shorter = history[:at]
    before = transcript.token_ids.tolist(), len(transcript.turns)

    with pytest.raises(PrefixBroken, match=f"first difference at position {at}"):
        transcript.append(np.concatenate([edited, [7]]), generation([8]))
    with pytest.raises(PrefixBroken, match=f"first difference at position {at}"):
        transcript.append(shorter, generation([8]))

    assert (transcript.token_ids.tolist(), len(transcript.turns)) == before


def test_a_turn_keeps_what_the_engine_said_of_it() -> None:
    transcript = Transcript()

    transcript.append([1, 2], generation([3]), tool_seconds=1.5)

    (turn,) = transcript.turns
    assert (turn.prompt_length, turn.generation_length, turn.stop_reason) == (2, 1, "stop")
    assert turn.version_spans == (VersionSpan(0, 0, 1),)
    assert (turn.queued_seconds, turn.generation_seconds, turn.tool_seconds) == (0.25, 0.5, 1.5)


def test_a_generation_without_its_logprobs_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="2 tokens but 1 logprobs"):
        Generation(np.zeros(2, np.int32), np.zeros(1, np.float32), "stop", (), 0.0, 0.0)
