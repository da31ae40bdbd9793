"""verl's own agent-loop worker runs our loop (verl 0.9.1, in the environment of scripts/verl.sh).

Run here: verl's dataset, its loading of the loop by the YAML of docs/trainers.md, the loop, and
verl's padding of what it returns into a training batch. Not run: verl's trainer and its engines,
which need a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, PreTrainedTokenizerFast

from gym_ray.integrations.verl import rows
from gym_ray.rollout import Rollout
from tests.gateway.played import CALLS, IDLES, KEY, Played, played_service, task

pytestmark = pytest.mark.long("Needs verl in an environment of its own, a minute to make.")

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".verl" / "bin" / "python"
#: `data.max_response_length` in verl_program.py.
RESPONSE_LENGTH = 400
PAGE = (ROOT / "docs" / "trainers.md").read_text()


@pytest.fixture
def played() -> Played:
    return Played()


@pytest.fixture
def url(played: Played) -> Iterator[str]:
    with played_service(played) as url:
        yield url


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What verl reads of a model before it loads one: its config and tokenizer."""
    folder = tmp_path / "model"
    LlamaConfig(
        vocab_size=259, eos_token_id=258, pad_token_id=256, architectures=["LlamaForCausalLM"]
    ).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({str(token): token for token in range(259)})),
        eos_token="258",
        pad_token="256",
        chat_template="{% for message in messages %}{{ message.content }}{% endfor %}",
    ).save_pretrained(folder)
    return folder


def generate(url: str, model: Path, tasks: list[Any], repeats: int) -> Any:
    """What verl makes of rollouts of these tasks."""
    assert PYTHON.exists(), "run scripts/verl.sh first, as scripts/test.sh all interop does"
    (loops,) = [
        block.partition("```")[0]
        for block in PAGE.split("```yaml\n")[1:]
        if "RolloutAgentLoop" in block
    ]
    folder = model.parent
    (folder / "loops.yaml").write_text(loops.replace("http://127.0.0.1:8000", url))
    pq.write_table(pa.Table.from_pylist(list(rows(tasks))), folder / "tasks.parquet")
    program = [PYTHON, Path(__file__).with_name("verl_program.py"), model]
    done = subprocess.run(
        [*program, folder / "tasks.parquet", folder / "loops.yaml", str(repeats)],
        env={**os.environ, "GYM_RAY_API_KEY": KEY, "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_verls_batch_has_exactly_the_tokens_logprobs_and_rewards_of_the_rollouts(
    url: str, model: Path, played: Played
) -> None:
    found = generate(url, model, [task(CALLS), task(IDLES), task(["x" * 500])], 2)

    assert [row["index"] for row in found] == [0, 0, 1, 1, 2, 2]
    assert [row["turns"] for row in found] == [6, 6, 2, 2, 2, 2]
    assert [row["scores"] for row in found] == [[2.0], [2.0], [], [], [], []]
    assert all(row["versions"] == [0, 0] for row in found)
    by_tokens = {tuple(_cut(rollout.token_ids, rollout)): rollout for rollout in played.finished}
    assert len(by_tokens) == 3
    for row in found:
        rollout = by_tokens[tuple(row["token_ids"])]
        learned = _cut(rollout.loss_mask, rollout) == 1
        assert row["sampled"] == _cut(rollout.token_ids, rollout)[learned].tolist()
        assert row["logprobs"] == _cut(rollout.logprobs, rollout)[learned].tolist()
        assert json.loads(rollout.sampling)["temperature"] == 0.7
    assert len(found[-1]["sampled"]) == RESPONSE_LENGTH


def _cut(values: Any, rollout: Rollout) -> Any:
    """Of a rollout, what verl has room for."""
    return values[: rollout.turns[0].prompt_length + RESPONSE_LENGTH]
