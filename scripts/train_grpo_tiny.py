"""GRPO from nothing to learning, in minutes on a CPU: a training loop around the rollout service.

A Llama of 3.3 million parameters is first fitted on sums and differences of two digits
(reasoning-gym's `chain_sum`) until it gets some of them right. Then, over and over: collect groups
of rollouts from a running service, take gradient steps on them, give the service the new weights.
The mean reward has to rise by MARGIN, and before its first step on a batch the trainer has to
find every sampled token exactly as likely as the service said it was.

    python scripts/train_grpo_tiny.py --seed 0

An example and an end-to-end test, not a trainer to build on: docs/weights.md, docs/client.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import gym_ray
from gym_ray.environments.reasoning_gym import ReasoningGymEnvironment
from gym_ray.policies.bundled import resolve_model

ITERATIONS = 16
TASKS = 48  # of an iteration
REPEATS = 8  # of a task
STEPS = 4  # on the rollouts of an iteration
CLIP = 0.2

#: Mean reward of the last three iterations over that of the first one.
MARGIN = 0.15

#: How far a ratio may be from 1 before the first step: engine and trainer compute in float32.
TOLERANCE = 1e-3

#: What the model's chat template makes of a question, and what ends an answer.
PROMPT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"

#: A sequence to learn from: tokens, and where it was sampled, with which logprob and advantage.
Sample = tuple[list[int], list[bool], list[float], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--fit-steps", type=int, default=300)
    parser.add_argument("--margin", type=float, default=MARGIN, help="what the reward has to rise")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    random.seed(arguments.seed)
    tasks = questions(arguments.seed)
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("bundled:smollm2-135m"))
    model = new_model()
    fit(model, tokenizer, tasks, arguments.fit_steps)
    with tempfile.TemporaryDirectory(prefix="grpo-tiny-") as name:
        folder = Path(name)
        with serving(save(model, tokenizer, folder / "step-0"), folder) as client:
            rewards = train(model, tokenizer, tasks, client, folder, arguments.iterations)
    gain = statistics.mean(rewards[-3:]) - rewards[0]
    print(f"mean reward {rewards[0]:.3f} at the start, {gain:+.3f} at the end")
    if gain < arguments.margin:
        sys.exit(f"that is less than {arguments.margin:+}: the loop does not learn")


def train(
    model: Any, tokenizer: Any, tasks: list[Any], client: Any, folder: Path, iterations: int
) -> list[float]:
    """Collect, learn, refit, repeat; the mean reward of each iteration."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    rewards = []
    for version in range(iterations):
        began = time.monotonic()
        groups = list(client.groups(random.sample(tasks, TASKS), REPEATS, on_failure="raise"))
        rewards.append(statistics.mean(reward for group in groups for reward in group.rewards))
        samples = samples_of(groups, version)
        with torch.no_grad():
            worst = float((ratios(model, batch(samples)) - 1).abs().max())
        print(
            f"version {version}: mean reward {rewards[-1]:.3f}, {len(samples)} rollouts to learn "
            f"from, ratios within {worst:.1e} of 1, {time.monotonic() - began:.1f} s",
            flush=True,
        )
        assert worst < TOLERANCE, "the trainer does not see what the policy sampled"
        for _ in range(STEPS):
            learn(model, optimizer, batch(samples))
        client.update_weights(
            version + 1, str(save(model, tokenizer, folder / f"step-{version + 1}"))
        )
        if version:  # Replicas start from the first one and then read the newest.
            shutil.rmtree(folder / f"step-{version}")
    return rewards


def samples_of(groups: list[Any], version: int) -> list[Sample]:
    """The rollouts of groups whose rewards differ, with GRPO's advantage."""
    samples: list[Sample] = []
    for group in groups:
        for result, advantage in zip(group.results, group.advantages, strict=True):
            spans = [span for turn in result.turns for span in turn.version_spans]
            assert {span.version for span in spans} == {version}
            if advantage:
                mask = (result.loss_mask == 1).tolist()
                samples.append(
                    (result.token_ids.tolist(), mask, result.logprobs.tolist(), advantage)
                )
    return samples


def batch(samples: list[Sample]) -> dict[str, torch.Tensor]:
    """Samples side by side: tokens, mask, logprobs [B, T], advantages [B, 1]."""
    length = max(len(tokens) for tokens, *_ in samples)
    found = {
        "tokens": torch.zeros(len(samples), length, dtype=torch.long),
        "mask": torch.zeros(len(samples), length, dtype=torch.bool),
        "logprobs": torch.zeros(len(samples), length),
        "advantages": torch.tensor([[sample[3]] for sample in samples], dtype=torch.float32),
    }
    for row, sample in enumerate(samples):
        for key, values in zip(("tokens", "mask", "logprobs"), sample[:3], strict=True):
            found[key][row, : len(values)] = torch.tensor(values, dtype=found[key].dtype)
    return found


def ratios(model: Any, b: dict[str, torch.Tensor]) -> torch.Tensor:
    """Likelihood of each sampled token now over that when it was sampled: [N], of all [B, T]."""
    sampled = b["mask"][:, 1:]
    hidden = model.model(b["tokens"]).last_hidden_state[:, :-1][sampled]  # [N, H], few of [B, T]
    logprobs = model.lm_head(hidden).log_softmax(-1)
    now = logprobs.gather(-1, b["tokens"][:, 1:][sampled][:, None])[:, 0]
    return (now - b["logprobs"][:, 1:][sampled]).exp()


def learn(model: Any, optimizer: Any, b: dict[str, torch.Tensor]) -> None:
    """One step on the clipped surrogate (Shao et al. 2024, arXiv:2402.03300, equation 3, no KL)."""
    ratio = ratios(model, b)
    advantage = b["advantages"].expand_as(b["tokens"])[:, 1:][b["mask"][:, 1:]]
    gain = torch.min(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
    step(model, optimizer, -gain.mean())


def step(model: Any, optimizer: Any, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def questions(seed: int) -> list[dict[str, Any]]:
    """Task rows that ask nothing but the question: the whole reply is the answer."""
    environment = ReasoningGymEnvironment(
        families=["chain_sum"],
        family_config={"chain_sum": {"min_terms": 2, "max_terms": 2, "max_digits": 1}},
        size=400,
        seed=seed,
    )
    rows = {row["question"]: row for row in environment.tasks()}
    for row in rows.values():
        row["responses_create_params"]["input"][0]["content"] = row["question"]
    return list(rows.values())


def new_model() -> Any:
    """Random weights, small enough to train on one core."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def fit(model: Any, tokenizer: Any, tasks: list[Any], steps: int) -> None:
    """Supervised steps on right answers: enough for RL to find some reward to climb."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    examples: list[Sample] = []
    for task in tasks:
        prompt = tokenizer.encode(PROMPT.format(task["question"]))
        answer = tokenizer.encode(task["answer"] + END)
        tokens = [*prompt, *answer]
        mask = [False] * len(prompt) + [True] * len(answer)
        examples.append((tokens, mask, [0.0] * len(tokens), 0.0))
    for _ in range(steps):
        # A logprob of 0 makes the ratio the likelihood itself.
        step(model, optimizer, -ratios(model, batch(random.sample(examples, 64))).log().mean())


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    """A checkpoint as vLLM reads it."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def serving(checkpoint: Path, folder: Path) -> Iterator[Any]:
    """`gym-ray serve` of a checkpoint in a process of its own, and a client of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "policy": {
            "model": str(checkpoint),
            "engine_args": {
                "dtype": "float32",
                "max_model_len": 128,
                "max_num_seqs": 128,
                "kv_cache_memory_bytes": 128 * 1024**2,
            },
            "resources": {"num_cpus": 1},
        },
        "environments": {"reasoning_gym": {"resources": {"num_cpus": 0.5}}},
        "verification": {"processes": 1},
        "sampling": {"temperature": 1.0, "max_output_tokens": 8},
        "serve": {"port": port},
    }
    (folder / "serve.yaml").write_text(json.dumps(config))
    key = secrets.token_hex()
    service = subprocess.Popen(
        [sys.executable, "-m", "gym_ray", "serve", str(folder / "serve.yaml")],
        env={**os.environ, "GYM_RAY_ADMIN_KEY": key},
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health", service)
        with gym_ray.RolloutClient(url, admin_key=key, max_in_flight=TASKS * REPEATS) as client:
            yield client
    finally:
        service.send_signal(signal.SIGINT)
        service.wait(timeout=120)


def wait_for(url: str, service: subprocess.Popen[bytes], seconds: float = 600.0) -> None:
    """Return when the service answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        if service.poll() is not None:
            sys.exit(f"the service ended with exit code {service.returncode}")
        time.sleep(1.0)
    sys.exit(f"no answer from {url} within {seconds:.0f} s")


if __name__ == "__main__":
    main()
