"""A hundred weight updates in a row on a vLLM engine under load: what they cost and what is left.

Two checkpoints of random weights (two layers, the bundled model's tokenizer) take turns. Prints
seconds per update, tokens sampled across them, the worst distance of a recorded log-probability
from a plain float32 forward pass of the version it is labelled with, and the memory of all of
vLLM's processes after 20 updates and at the end.

    OMP_NUM_THREADS=1 python scripts/bench/weights.py --updates 100 --in-flight 4
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from gym_ray.policies.bundled import resolve_model
from gym_ray.policies.call import Call
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.vllm import VllmEngine
from gym_ray.policies.weights import Place, WeightsUpdate
from gym_ray.sampling import Sampling
from gym_ray.turn import Generation

Sampled = tuple[GenerationRequest, Generation]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--in-flight", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=48, help="of a generation")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = [write_checkpoint(Path(folder) / str(seed), seed) for seed in (0, 1)]
        sampled = asyncio.run(run(checkpoints, arguments))
        report(checkpoints, sampled)


def write_checkpoint(directory: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.15,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    bundled = Path(resolve_model("bundled:smollm2-135m"))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(bundled / name, directory)
    return directory


async def run(checkpoints: list[Path], arguments: argparse.Namespace) -> list[Sampled]:
    engine = VllmEngine(
        model=str(checkpoints[0]),
        engine_args={
            "dtype": "float32",
            "max_model_len": 512,
            "max_num_seqs": arguments.in_flight,
            "kv_cache_memory_bytes": 128 * 1024**2,
        },
    )
    await engine.start()
    sampled: list[Sampled] = []
    ended = asyncio.Event()

    async def load(number: int) -> None:
        while not ended.is_set():
            request = GenerationRequest(
                Call(f"bench/{number}", Sampling(max_output_tokens=arguments.tokens)),
                np.arange(100, 116, dtype=np.int32),
            )
            sampled.append((request, await engine.generate(request)))

    async def nothing() -> None:
        return None

    loads = [asyncio.create_task(load(number)) for number in range(arguments.in_flight)]
    seconds, memory = [], []
    try:
        for version in range(1, arguments.updates + 1):
            count = len(sampled)
            while len(sampled) == count:
                await asyncio.wait(loads, timeout=0.02)
            update = WeightsUpdate(version=version, source=str(checkpoints[version % 2]))
            began = time.monotonic()
            await engine.update_weights(update, Place(), nothing)
            seconds.append(time.monotonic() - began)
            if version in (20, arguments.updates):
                pids = engine.process_ids
                memory.append(sum(psutil.Process(pid).memory_info().rss for pid in pids))
        ended.set()
        await asyncio.gather(*loads)
    finally:
        await engine.stop()
    print(
        f"{len(seconds)} updates: median {statistics.median(seconds):.2f} s, "
        f"longest {max(seconds):.2f} s"
    )
    print("memory of vLLM's processes:", " -> ".join(f"{size / 1e6:.0f} MB" for size in memory))
    return sampled


def report(checkpoints: list[Path], sampled: list[Sampled]) -> None:
    models: list[Any] = [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for path in checkpoints
    ]
    worst, other = 0.0, float("inf")
    for request, generation in sampled:
        sequence = np.concatenate([request.prompt_token_ids, generation.token_ids])
        tokens = torch.from_numpy(sequence).long()
        with torch.no_grad():
            logprobs = [
                model(tokens[None]).logits[0, :-1].log_softmax(-1).gather(-1, tokens[1:, None])
                for model in models
            ]
        both = torch.cat(logprobs, dim=1).numpy()[len(request.prompt_token_ids) - 1 :]
        for span in generation.version_spans:
            at = slice(span.start, span.end)
            errors = np.abs(both[at] - generation.logprobs[at, None])
            worst = max(worst, float(errors[:, span.version % 2].max()))
            if span.end - span.start > 4:
                other = min(other, float(errors[:, 1 - span.version % 2].max()))
    across = sum(len(generation.version_spans) > 1 for _, generation in sampled)
    count = sum(len(generation.token_ids) for _, generation in sampled)
    print(f"{len(sampled)} generations, {across} across updates, {count} tokens")
    print(f"worst error {worst:.1e}; against the other version at least {other:.1f}")


if __name__ == "__main__":
    main()
