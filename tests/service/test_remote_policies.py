"""Collecting through servers that speak OpenAI's API, in a process of their own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import gym_ray
from gym_ray.policies.bundled import resolve_model
from gym_ray.renderers import load_renderer
from gym_ray.store.rows import broken_invariants
from tests.cluster import scripted_config, write_rows
from tests.replies import row_of, tool_calls

pytestmark = [
    pytest.mark.long(
        "applications of their own and the tokenizer of a bundled model (80 s of CPU time); what "
        "such a policy is asked and answers is in tests/unit/test_openai_policy.py, what serves it "
        "in tests/gateway"
    ),
    pytest.mark.timeout(300),
]

CALLS = tool_calls(("add", {"a": 1, "b": 2}), ("count", {}))
DEAD = "http://127.0.0.1:1/v1"


@contextlib.contextmanager
def server(**script: Any) -> Iterator[str]:
    """A server's base address."""
    script["reply"] = "tests.replies:turns_in_the_prompt"
    command = [sys.executable, "-m", "tests.openai_server", json.dumps(script)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


def collected(tmp_path: Path, model: str, /, **engine_args: Any) -> gym_ray.RunSummary:
    rows = [row_of([CALLS, CALLS, "It is 3."], n=n, path=str(tmp_path)) for n in range(20)]
    config = scripted_config(tmp_path, write_rows(tmp_path / "tasks.jsonl", rows), tmp_path)
    config["policy"] |= {"engine": "openai", "model": model, "engine_args": engine_args}
    config["environments"] = {
        "workshop": {
            "entrypoint": "tests.workshop:Workshop",
            "agent": "tool_calling",
            "resources": {"num_cpus": 0.2},
        }
    }
    return gym_ray.collect(config, quiet=True)


def test_completions_give_contiguous_exact_tokens_though_one_of_two_servers_is_down(
    tmp_path: Path, cluster: str
) -> None:
    tokenizer = resolve_model("bundled:smollm2-135m")
    with server(tokenizer=tokenizer) as url:
        summary = collected(tmp_path, "bundled:smollm2-135m", base_urls=[DEAD, url], model="m")

    assert (summary.expected, summary.completed, summary.without_token_ids) == (20, 20, 0)
    rollouts = list(gym_ray.read_rollouts(summary.output))
    assert broken_invariants(rollouts) == []
    renderer = load_renderer(tokenizer)
    for rollout in rollouts:
        assert (rollout.reward, len(rollout.turns), rollout.attempts) == (2.0, 3, 1)
        last = rollout.turns[-1]
        assert renderer.decode(rollout.token_ids[last.prompt_length :]) == "It is 3.<|im_end|>"
        # Sampled letter by letter, which no rendering of the text would give.
        assert last.generation_length == len("It is 3.") + 1


def test_chat_without_tokens_gives_null_columns_and_a_summary_that_says_so(
    tmp_path: Path, cluster: str
) -> None:
    with server(chat_tokens="none") as url:
        summary = collected(tmp_path, "m", base_urls=[url], api="chat")

    assert (summary.expected, summary.completed, summary.without_token_ids) == (20, 20, 20)
    shard = next((Path(summary.output) / "rollouts").glob("*.parquet"))
    table = pq.read_table(shard, columns=["token_ids", "loss_mask", "logprobs", "reward"])
    assert [table[name].null_count for name in table.column_names] == [20, 20, 20, 0]
    rollouts = list(gym_ray.read_rollouts(summary.output))
    assert {(r.reward, len(r.turns), r.has_tokens) for r in rollouts} == {(2.0, 3, False)}
