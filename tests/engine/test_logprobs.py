"""Log-probabilities are those of the distribution the tokens were drawn from.

Every sampled position of the real model is recomputed with a plain float32 forward pass.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
import xgrammar

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.call import Call
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.vllm import VllmEngine
from gym_ray.sampling import Sampling
from gym_ray.turn import Generation
from tests.forward_pass import TOLERANCE

#: A cut at top-p may fall on either side of a token whose cumulative mass equals it to rounding.
NUCLEUS_ROUNDING = 5e-5

SAMPLINGS = (
    Sampling(temperature=1.0, max_output_tokens=64),
    Sampling(temperature=0.7, max_output_tokens=64),
    Sampling(temperature=1.0, top_p=0.9, max_output_tokens=64),
    Sampling(temperature=0.7, top_k=20, max_output_tokens=64),
    Sampling(temperature=0.8, top_k=50, top_p=0.8, max_output_tokens=64),
)

Sampled = tuple[GenerationRequest, Generation]

QUESTIONS = (
    "What is the capital of France?",
    "Add 17 and 25. Think step by step.",
    "Write a short poem about the sea.",
    "Name three prime numbers above 50.",
)


@pytest.fixture(scope="module")
def sampled(bundled: VllmEngine, tokenizer: Any, run: Any) -> dict[Sampling, list[Sampled]]:
    """Four generations under each of `SAMPLINGS`, all in flight together, so in mixed batches."""
    requests = [
        _request(tokenizer, question, sampling, seed)
        for sampling in SAMPLINGS
        for seed, question in enumerate(QUESTIONS)
    ]
    generations = run(_generate_together(bundled, requests))
    together: dict[Sampling, list[Sampled]] = {sampling: [] for sampling in SAMPLINGS}
    for request, generation in zip(requests, generations, strict=True):
        together[request.call.sampling].append((request, generation))
    return together


@pytest.mark.parametrize(
    "sampling",
    SAMPLINGS,
    ids=lambda sampling: f"T{sampling.temperature:g}-p{sampling.top_p:g}-k{sampling.top_k}",
)
def test_logprobs_agree_with_a_plain_forward_pass_and_shifted_tokens_do_not(
    sampling: Sampling, sampled: dict[Sampling, list[Sampled]], reference: Any
) -> None:
    errors = [_logprob_errors(reference, *pair) for pair in sampled[sampling]]
    worst = max(float(error.max()) for error in errors)
    print(f"worst logprob error {worst:.2e} over {sum(map(len, errors))} positions")
    assert sum(map(len, errors)) > 100
    assert worst < TOLERANCE

    request, generation = sampled[sampling][0]
    assert _logprob_errors(reference, request, _shifted_by_one(generation)).max() > TOLERANCE


def test_greedy_logprobs_are_those_at_temperature_one(
    bundled: VllmEngine, reference: Any, tokenizer: Any, run: Any
) -> None:
    request = _request(tokenizer, QUESTIONS[0], Sampling(temperature=0, max_output_tokens=16), None)
    generation = run(bundled.generate(request))

    logits = _logits(reference, request, generation)
    assert generation.token_ids.tolist() == logits.argmax(-1).tolist()
    expected = logits.log_softmax(-1).max(-1).values.numpy()
    np.testing.assert_allclose(generation.logprobs, expected, atol=TOLERANCE)


def test_guided_generation_obeys_its_grammar_and_logprobs_are_of_the_masked_distribution(
    bundled: VllmEngine, reference: Any, tokenizer: Any, run: Any
) -> None:
    grammar = 'root ::= "The answer is " [0-9]+ " " ("apples" | "pears") "."'
    sampling = Sampling(temperature=1.0, max_output_tokens=48, grammar=grammar)
    requests = [
        _request(tokenizer, question, sampling, seed) for seed, question in enumerate(QUESTIONS)
    ]
    generations: list[Generation] = run(_generate_together(bundled, requests))

    compiled = xgrammar.GrammarCompiler(
        xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
    ).compile_grammar(grammar)
    for request, generation in zip(requests, generations, strict=True):
        assert xgrammar.GrammarMatcher(compiled).accept_string(
            tokenizer.decode(generation.token_ids, skip_special_tokens=True)
        )
        masked = _logits(reference, request, generation)
        matcher = xgrammar.GrammarMatcher(compiled)
        for position, token in enumerate(generation.token_ids.tolist()):
            bitmask = xgrammar.allocate_token_bitmask(1, masked.shape[-1])
            matcher.fill_next_token_bitmask(bitmask)
            xgrammar.apply_token_bitmask_inplace(masked[position : position + 1], bitmask)
            assert matcher.accept_token(token)
        expected = _at_tokens(masked.log_softmax(-1), generation)
        np.testing.assert_allclose(generation.logprobs, expected, atol=TOLERANCE)


STOPS = ((" the",), (". ", ", a"), ("\n\n", "er "), ("<|im_end|>", "not to be found"))


def test_a_stop_text_ends_the_turn_with_the_token_that_completes_it(
    bundled: VllmEngine, reference: Any, tokenizer: Any, run: Any
) -> None:
    requests = [
        _request(
            tokenizer, question, Sampling(temperature=0.7, max_output_tokens=40, stop=stop), seed
        )
        for stop in STOPS
        for seed, question in enumerate(QUESTIONS)
    ]
    generations: list[Generation] = run(_generate_together(bundled, requests))

    stopped = 0
    for request, generation in zip(requests, generations, strict=True):
        tokens = generation.token_ids
        assert not _says(tokenizer, tokens[:-1], request.call.sampling.stop)
        if _says(tokenizer, tokens, request.call.sampling.stop):
            stopped += 1
            assert generation.stop_reason == "stop"
        else:
            assert generation.stop_reason == "length" or tokens[-1] == tokenizer.eos_token_id
        assert _logprob_errors(reference, request, generation).max() < TOLERANCE
        assert [span.end for span in generation.version_spans] == [len(tokens)]
    assert stopped > 4


def _says(tokenizer: Any, tokens: np.ndarray, texts: tuple[str, ...]) -> bool:
    said = tokenizer.decode(tokens, skip_special_tokens=False)
    return any(text in said for text in texts)


@pytest.mark.parametrize(
    ("guide", "says"),
    [
        ({"stop": ("",)}, "stop cannot contain an empty string"),
        ({"structural_tag": "{}"}, "Invalid structural tag specification"),
        ({"grammar": "root ::= other"}, "Invalid grammar specification"),
        ({"grammar": 'root ::= "a"', "structural_tag": "{}"}, "only use one kind"),
    ],
)
def test_what_cannot_guide_or_stop_a_turn_is_refused(
    guide: dict[str, Any], says: str, bundled: VllmEngine, tokenizer: Any, run: Any
) -> None:
    with pytest.raises(RolloutFailure, match=says) as caught:
        run(bundled.generate(_request(tokenizer, QUESTIONS[0], Sampling(**guide), 0)))
    assert caught.value.kind == FailureKind.POLICY_REJECTED


def _request(
    tokenizer: Any, question: str, sampling: Sampling, seed: int | None
) -> GenerationRequest:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    return GenerationRequest(
        Call(f"logprobs/{question}", sampling, stop_token_ids=(tokenizer.eos_token_id,), seed=seed),
        np.asarray(prompt, dtype=np.int32),
    )


async def _generate_together(
    engine: VllmEngine, requests: list[GenerationRequest]
) -> list[Generation]:
    return await asyncio.gather(*[engine.generate(request) for request in requests])


def _logits(reference: Any, request: GenerationRequest, generation: Generation) -> torch.Tensor:
    """float32 [T, vocabulary]: what each generated token was chosen from."""
    sequence = np.concatenate([request.prompt_token_ids, generation.token_ids])
    with torch.no_grad():
        logits = reference(torch.from_numpy(sequence).long()[None]).logits[0]
    return logits[len(request.prompt_token_ids) - 1 : -1].clone()


def _logprob_errors(
    reference: Any, request: GenerationRequest, generation: Generation
) -> np.ndarray:
    """[T]: distance of each logprob from the recomputed one (infinite for a token cut away)."""
    sampling = request.call.sampling
    logits = _logits(reference, request, generation) / sampling.temperature
    if sampling.top_k is not None:
        kept = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < kept, -torch.inf)
    cuts = (0.0,) if sampling.top_p == 1 else (-NUCLEUS_ROUNDING, 0.0, NUCLEUS_ROUNDING)
    candidates = [
        _at_tokens(_nucleus(logits, sampling.top_p + cut).log_softmax(-1), generation)
        for cut in cuts
    ]
    return np.min([np.abs(expected - generation.logprobs) for expected in candidates], axis=0)


def _nucleus(logits: torch.Tensor, mass: float) -> torch.Tensor:
    """Keep the smallest set of most likely tokens whose probability reaches `mass`."""
    if mass >= 1:
        return logits
    ordered, order = logits.sort(descending=True)
    before = ordered.softmax(-1).double().cumsum(-1) - ordered.softmax(-1).double()
    ordered = ordered.masked_fill(before >= mass, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, order, ordered)


def _at_tokens(logprobs: torch.Tensor, generation: Generation) -> np.ndarray:
    tokens = torch.from_numpy(generation.token_ids).long()[:, None]
    return logprobs.gather(-1, tokens)[:, 0].numpy()


def _shifted_by_one(generation: Generation) -> Generation:
    return Generation(
        token_ids=generation.token_ids[1:],
        logprobs=generation.logprobs[:-1],
        stop_reason=generation.stop_reason,
        version_spans=generation.version_spans,
        queued_seconds=0.0,
        generation_seconds=0.0,
    )
