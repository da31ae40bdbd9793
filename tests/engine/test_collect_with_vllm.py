"""The whole path on the real engine: Ray Serve, vLLM, a real model, Parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

import gym_ray
from gym_ray.renderers import load_renderer
from gym_ray.store.rows import broken_invariants
from tests.exports import run_command

ROOT = Path(__file__).parents[2]


def test_rollouts_of_the_bundled_model_are_collected_verified_and_exact(
    tmp_path: Path, bundled_checkpoint: Path
) -> None:
    before = set(psutil.Process().children(recursive=True))

    summary = gym_ray.collect(
        ROOT / "deployments" / "laptop-cpu.yaml",
        [f"collect.output={tmp_path / 'run'}"],
    )

    assert (summary.expected, summary.failed, summary.pending) == (64, 0, 0)
    assert summary.reward.coverage == 1.0
    assert summary.run["engine"].startswith("vllm 0.32")
    rollouts = list(gym_ray.read_rollouts(summary.output))
    assert broken_invariants(rollouts) == []
    renderer = load_renderer(str(bundled_checkpoint))
    for rollout in rollouts:
        prompt_length = rollout.turns[0].prompt_length
        prompt = renderer.decode(rollout.token_ids[:prompt_length])
        assert all(message["content"] in prompt for message in json.loads(rollout.prompt))
        sampled = renderer.decode(rollout.token_ids[prompt_length:]).removesuffix("<|im_end|>")
        said = [part["text"] for item in json.loads(rollout.response) for part in item["content"]]
        assert "".join(said).strip() == sampled.strip()
        assert rollout.status == (
            "truncated" if rollout.turns[0].stop_reason == "length" else "completed"
        )
    samples = {(r.spec.task_index, tuple(r.token_ids.tolist())) for r in rollouts}
    assert len(samples) > 16, "the rollouts of a task are samples, not copies"
    left = [
        process
        for process in set(psutil.Process().children(recursive=True)) - before
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]
    assert left == [], "nothing of the run survives it"
    there_is_something_to_learn(summary, rollouts)


def there_is_something_to_learn(
    summary: gym_ray.RunSummary, rollouts: Sequence[gym_ray.Rollout]
) -> None:
    """What the demo is for: the model knows some of the answers, and each only some of the time."""
    rewards: dict[int, list[float]] = {}
    for rollout in rollouts:
        assert rollout.reward is not None
        rewards.setdefault(rollout.spec.task_index, []).append(rollout.reward)
    assert len(rewards) == 16
    assert summary.reward.mean is not None
    assert 0.2 < summary.reward.mean < 0.7
    assert sum(len(set(group)) > 1 for group in rewards.values()) >= 8
    scores = read(run_command("metrics", summary.output, "--json"))["overall"]["scores"]
    assert (
        scores["pass@1"]["fraction"] < scores["pass@2"]["fraction"] < scores["pass@4"]["fraction"]
    )
    exports = Path(summary.output).parent
    for kind, arguments in (("sft", ["--min-reward", "0.8"]), ("dpo", []), ("rl", [])):
        output = exports / kind
        report = read(
            run_command("export", kind, summary.output, "--output", output, *arguments, "--json")
        )
        assert report["rows"]["train"] >= 5, report


def read(done: tuple[int, str]) -> Any:
    """What a command printed as JSON, which must have succeeded."""
    code, printed = done
    assert code == 0, printed
    return json.loads(printed)
