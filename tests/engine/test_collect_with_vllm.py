"""The whole path on the real engine: Ray Serve, vLLM, a real model, Parquet."""

from __future__ import annotations

import json
from pathlib import Path

import psutil

import gym_ray
from gym_ray.renderers import load_renderer
from gym_ray.store.rows import broken_invariants

ROOT = Path(__file__).parents[2]


def test_rollouts_of_the_bundled_model_are_collected_verified_and_exact(
    tmp_path: Path, bundled_checkpoint: Path
) -> None:
    before = set(psutil.Process().children(recursive=True))

    summary = gym_ray.collect(
        ROOT / "deployments" / "laptop-cpu.yaml",
        [
            "collect.limit=8",
            "collect.num_repeats=2",
            "sampling.max_output_tokens=24",
            f"collect.output={tmp_path / 'run'}",
        ],
    )

    assert (summary.expected, summary.failed, summary.pending) == (16, 0, 0)
    assert summary.reward.coverage == 1.0
    assert summary.run["engine"].startswith("vllm 0.32")
    rollouts = list(gym_ray.read_rollouts(summary.output))
    assert broken_invariants(rollouts) == []
    renderer = load_renderer(str(bundled_checkpoint))
    for rollout in rollouts:
        prompt_length = rollout.turns[0].prompt_length
        prompt = json.loads(rollout.prompt)[0]["content"]
        assert prompt in renderer.decode(rollout.token_ids[:prompt_length])
        sampled = renderer.decode(rollout.token_ids[prompt_length:]).removesuffix("<|im_end|>")
        said = [part["text"] for item in json.loads(rollout.response) for part in item["content"]]
        assert "".join(said).strip() == sampled.strip()
        assert rollout.status == (
            "truncated" if rollout.turns[0].stop_reason == "length" else "completed"
        )
    groups = {(r.spec.task_index, tuple(r.token_ids.tolist())) for r in rollouts}
    assert len(groups) > 8, "the rollouts of a task are samples, not copies"
    left = [
        process
        for process in set(psutil.Process().children(recursive=True)) - before
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]
    assert left == [], "nothing of the run survives it"
