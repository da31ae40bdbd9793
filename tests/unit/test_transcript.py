"""The transcript: history is continued verbatim or refused, and only sampled tokens are masked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_ray.rollout import Branch
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


#: Few distinct tokens, so that histories share, part and repeat in every way.
FEW = st.lists(st.integers(0, 2), max_size=4)


@settings(max_examples=60)
@given(st.data())
def test_inserted_turns_form_a_tree_that_keeps_every_prompt_and_counts_every_sample_once(
    data: st.DataObject,
) -> None:
    transcript = Transcript()
    taken: list[tuple[list[int], list[int]]] = []
    for number in range(data.draw(st.integers(1, 8))):
        history = data.draw(st.sampled_from([[], *(prompt + said for prompt, said in taken)]))
        cut = data.draw(st.sampled_from([len(history), len(history) // 2]))
        taken.append((history[:cut] + data.draw(FEW), data.draw(FEW)))
        assert transcript.insert(taken[-1][0], generation(taken[-1][1])) == number

    for number, (prompt, said) in enumerate(taken):
        assert [part.tolist() for part in transcript.history(number)] == [prompt, said]
    final = Branch(transcript.token_ids, transcript.loss_mask, transcript.logprobs)
    branches = [final, *transcript.side_branches]
    assert final.token_ids.tolist() == taken[-1][0] + taken[-1][1]
    assert sum(int(b.loss_mask.sum()) for b in branches) == sum(len(said) for _, said in taken)
    for branch in branches:
        assert len(branch.token_ids) == len(branch.loss_mask) == len(branch.logprobs)
        assert np.array_equal(branch.logprobs < 0, branch.loss_mask == 1)
    for prompt, said in taken:
        whole = prompt + said
        assert any(b.token_ids[: len(whole)].tolist() == whole for b in branches)


def test_a_prompt_that_continues_the_newest_turn_makes_no_branch() -> None:
    transcript = Transcript()
    for added, sampled in [([1], [2, 3]), ([4], [5])]:
        transcript.insert([*transcript.token_ids, *added], generation(sampled))

    assert (transcript.token_ids.tolist(), transcript.side_branches) == ([1, 2, 3, 4, 5], ())


def test_a_compacted_history_leaves_what_it_replaced_in_a_side_branch() -> None:
    transcript = Transcript()
    transcript.insert([1, 2], generation([3]))
    transcript.insert([1, 2, 3, 4], generation([5]))
    transcript.insert([1, 9], generation([6]))

    (side,) = transcript.side_branches
    assert (transcript.token_ids.tolist(), len(transcript.turns)) == ([1, 9, 6], 1)
    assert side.token_ids.tolist() == [1, 2, 3, 4, 5]
    assert side.loss_mask.tolist() == [0, 0, 1, 0, 1]


def test_a_generation_shared_by_two_branches_is_masked_in_once() -> None:
    transcript = Transcript()
    transcript.insert([1], generation([2]))
    transcript.insert([1, 2, 3], generation([4]))
    transcript.insert([1, 2, 5], generation([6]))

    (side,) = transcript.side_branches
    assert transcript.loss_mask.tolist() == [0, 1, 0, 1]
    assert side.token_ids.tolist() == [1, 2, 3, 4]
    assert (side.loss_mask.tolist(), side.logprobs.tolist()) == ([0, 0, 0, 1], [0, 0, 0, -1])


def test_part_of_a_generation_repeated_in_a_prompt_is_not_taken_for_sampled() -> None:
    transcript = Transcript()
    transcript.insert([1], generation([2, 3]))
    transcript.insert([1, 2, 7], generation([8]))

    assert transcript.loss_mask.tolist() == [0, 0, 0, 1]
    assert [side.token_ids.tolist() for side in transcript.side_branches] == [[1, 2, 3]]


def test_after_a_branch_only_its_own_history_can_be_appended_to() -> None:
    transcript = Transcript()
    transcript.append([1], generation([2]))
    transcript.insert([5], generation([6]))

    with pytest.raises(PrefixBroken, match="first difference at position 0"):
        transcript.append([1, 2, 3], generation([4]))
    assert transcript.append([5, 6, 7], generation([8])) == 2
