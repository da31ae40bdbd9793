"""Weights replaced under way: which tokens are whose, and that their log-probabilities are too.

Two models of random weights with sharp distributions, so that logprobs of one are far from those
of the other; every sampled position is recomputed with a plain float32 forward pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gym_ray.errors import ConfigError
from gym_ray.policies.call import Call
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.vllm import VllmEngine
from gym_ray.policies.weights import Place, Transfer, WeightsUpdate
from gym_ray.sampling import Sampling
from gym_ray.turn import Generation, VersionSpan
from tests.forward_pass import TOLERANCE

TOKENS = 128


class Weights:
    """Two checkpoints, and what each of them makes of a sequence. Versions count up and use them
    in turn: even ones the first, odd ones the second."""

    def __init__(self, paths: list[Path]) -> None:
        from transformers import AutoModelForCausalLM

        self.paths = paths
        self._models = [
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in paths
        ]
        self.version = 0

    def next(self, mode: str = "keep") -> WeightsUpdate:
        self.version += 1
        path = str(self.paths[self.version % 2])
        return WeightsUpdate(version=self.version, source=path, mode=mode)

    def errors(
        self, request: GenerationRequest, generation: Generation, version: int
    ) -> np.ndarray[Any, Any]:
        """[T]: distance of each recorded logprob from what `version` gives on the whole prefix."""
        sequence = np.concatenate([request.prompt_token_ids, generation.token_ids])
        with torch.no_grad():
            logits = self._models[version % 2](torch.from_numpy(sequence).long()[None]).logits[0]
        logprobs = logits[len(request.prompt_token_ids) - 1 : -1].log_softmax(-1)
        tokens = torch.from_numpy(generation.token_ids).long()[:, None]
        recomputed = logprobs.gather(-1, tokens)[:, 0].numpy()
        return np.abs(recomputed - generation.logprobs)

    def require_exact(self, request: GenerationRequest, generation: Generation) -> None:
        """Every span's logprobs are its own version's, and not the other one's."""
        ends = [span.end for span in generation.version_spans]
        starts = [span.start for span in generation.version_spans]
        assert starts == [0, *ends[:-1]]
        assert ends[-1] == len(generation.token_ids)
        for span in generation.version_spans:
            own = self.errors(request, generation, span.version)[span.start : span.end]
            other = self.errors(request, generation, span.version + 1)[span.start : span.end]
            assert own.max() < TOLERANCE, span
            assert other.max() > 100 * TOLERANCE or span.end - span.start < 3, span


@pytest.fixture(scope="module")
def weights(write_model: Any) -> Weights:
    # A head that shares the embedding's weights has copies of its own to be renewed on a CPU.
    shape = {"initializer_range": 0.15, "tie_word_embeddings": True}
    return Weights([write_model(seed=seed, **shape) for seed in (10, 11)])


@pytest.fixture(scope="module")
def engine(start_engine: Any, weights: Weights) -> Iterator[VllmEngine]:
    yield from start_engine(str(weights.paths[0]), max_model_len=1024, max_num_seqs=8)


def request(number: int = 0, output: int = TOKENS, prompt: int = 40) -> GenerationRequest:
    return GenerationRequest(
        Call(f"weights/{number}/{output}", Sampling(max_output_tokens=output), seed=number),
        np.arange(100, 100 + prompt, dtype=np.int32),
    )


async def update(engine: VllmEngine, to: WeightsUpdate) -> str:
    async def verify() -> None:
        return None

    await engine.check_weights(to, Place())
    return await engine.update_weights(to, Place(), verify)


def test_tokens_sampled_across_an_update_carry_both_versions_and_each_halfs_own_logprobs(
    engine: VllmEngine, weights: Weights, run: Any
) -> None:
    before = weights.version
    requests = [request(number) for number in range(4)]

    async def scenario() -> list[Generation]:
        running = [asyncio.create_task(engine.generate(each)) for each in requests]
        await engine.generate(request(99, output=24))
        await update(engine, weights.next())
        return await asyncio.gather(*running)

    for asked, generation in zip(requests, run(scenario()), strict=True):
        assert [span.version for span in generation.version_spans] == [before, before + 1]
        assert len(generation.token_ids) == TOKENS
        assert min(span.end - span.start for span in generation.version_spans) > 10
        weights.require_exact(asked, generation)


def test_a_prefix_cached_under_old_weights_is_not_used_under_new_ones(
    engine: VllmEngine, weights: Weights, run: Any
) -> None:
    long = request(5, output=8, prompt=500)
    run(engine.generate(long))
    run(update(engine, weights.next()))

    generation = run(engine.generate(long))

    assert generation.version_spans == (VersionSpan(weights.version, 0, 8),)
    weights.require_exact(long, generation)


def test_drain_lets_generations_end_under_the_weights_they_began_with(
    engine: VllmEngine, weights: Weights, run: Any
) -> None:
    before = weights.version

    async def scenario() -> tuple[Generation, Generation]:
        running = asyncio.create_task(engine.generate(request(7)))
        await engine.generate(request(98, output=8))
        updating = asyncio.create_task(update(engine, weights.next("drain")))
        await asyncio.wait([running])
        later = asyncio.create_task(engine.generate(request(8, output=16)))
        await updating
        return await running, await later

    drained, later = run(scenario())
    assert drained.version_spans == (VersionSpan(before, 0, TOKENS),)
    assert later.version_spans == (VersionSpan(before + 1, 0, 16),)
    weights.require_exact(request(7), drained)
    weights.require_exact(request(8, output=16), later)


def test_many_updates_under_load_leave_no_token_with_another_versions_logprob(
    engine: VllmEngine, weights: Weights, run: Any
) -> None:
    done: list[tuple[GenerationRequest, Generation]] = []
    first = weights.version

    async def scenario() -> None:
        ended = asyncio.Event()

        async def load(number: int) -> None:
            while not ended.is_set():
                asked = request(number, output=48)
                done.append((asked, await engine.generate(asked)))

        loads = [asyncio.create_task(load(number)) for number in range(4)]
        for _ in range(6):
            count = len(done)
            digest = await update(engine, weights.next())
            assert digests.setdefault(weights.version % 2, digest) == digest
            while len(done) < count + 2:
                await asyncio.wait(loads, timeout=0.05)
        ended.set()
        await asyncio.gather(*loads)

    digests: dict[int, str] = {}
    run(scenario())
    assert len(set(digests.values())) == 2
    seen = {span.version for _, each in done for span in each.version_spans}
    assert seen | {first} == set(range(first, weights.version + 1))
    for asked, generation in done:
        weights.require_exact(asked, generation)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 3}, "none of the policy's"),
        ({"num_hidden_layers": 1}, "is missing"),
        ({"intermediate_size": 128}, "has shape"),
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps"),
    ],
)
def test_weights_of_another_model_are_refused_and_nothing_changes(
    engine: VllmEngine, write_model: Any, changes: dict[str, Any], says: str, run: Any
) -> None:
    before = run(engine.generate(request(3, output=4)))
    other = WeightsUpdate(
        version=1000, source=str(write_model(**{"tie_word_embeddings": True, **changes}))
    )

    with pytest.raises(ConfigError, match=says):
        run(engine.check_weights(other, Place()))

    after = run(engine.generate(request(3, output=4)))
    assert after.version_spans == before.version_spans


def test_a_transfer_needs_a_policy_that_was_configured_for_it(engine: VllmEngine, run: Any) -> None:
    update = WeightsUpdate(version=1000, source=Transfer(backend="nccl", updates=[{"names": []}]))
    with pytest.raises(ConfigError, match="weight_transfer_config"):
        run(engine.check_weights(update, Place()))
