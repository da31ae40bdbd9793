"""NeMo RL's own rollout code runs on our actor (a checkout, in the environment of
scripts/nemo_rl.sh).

Run here: what `nemo_rl_program.py` names, over rollouts whose tokens a model is asked for the
logprobs of, in one process for sampling and in another for training. Not run: a training step,
NeMo RL's vLLM workers and its placement of shards on nodes, which need GPUs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gym_ray.config.environment import EnvironmentConfig
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.turn import Generation
from tests.gateway.played import CALLS, IDLES, KEY, REPLY, Played, played_service, task
from tests.replies import row_of

pytestmark = [
    pytest.mark.long(
        "Needs NeMo RL's source, and an environment of its own, a minute to make; what rollouts "
        "become for it is in tests/gateway/test_nemo_rl.py."
    ),
    pytest.mark.timeout(600),
]

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".nemo-rl" / "bin" / "python"
ENVIRONMENTS = {
    "workshop": EnvironmentConfig(agent="tool_calling", agent_refs=["workshop_agent"]),
    "shed": EnvironmentConfig(agent="tool_calling"),
}
SIZE = 2
IDENTITY = {"_ng_group_id": "a-group", "_ng_group_attempt": 0}


class Scored(ScriptedEngine):
    """Says what the script says, with the logprobs a model gives it."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__(model="m", engine_args=REPLY)
        self._scores = model

    async def generate(self, request: GenerationRequest) -> Generation:
        said = await super().generate(request)
        ids = np.concatenate([request.prompt_token_ids, said.token_ids])
        with torch.no_grad():
            logits = self._scores(input_ids=torch.from_numpy(ids)[None].long()).logits[0]
        scores = torch.log_softmax(logits.float(), dim=-1)[-len(said.token_ids) - 1 : -1]
        own = scores.gather(1, torch.from_numpy(said.token_ids)[:, None].long())[:, 0]
        return dataclasses.replace(said, logprobs=own.numpy())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights, and a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=259, num_hidden_layers=2, eos_token_id=258, pad_token_id=256, **sizes
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({str(token): token for token in range(259)})),
        eos_token="258",
        pad_token="256",
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def played(model: Path) -> Played:
    return Played(engine=Scored(LlamaForCausalLM.from_pretrained(model)))


@pytest.fixture(scope="module")
def url(played: Played) -> Iterator[str]:
    with played_service(played, environments=ENVIRONMENTS) as url:
        yield url


@pytest.fixture(scope="module")
def services(played: Played) -> Iterator[dict[str, str]]:
    """A service for each environment, by the environment's name."""
    with contextlib.ExitStack() as running:
        yield {
            name: running.enter_context(played_service(played, environments={name: section}))
            for name, section in ENVIRONMENTS.items()
        }


def row(*rollouts: list[str] | None, name: str = "workshop", **fields: Any) -> dict[str, Any]:
    ref = {"type": "responses_api_agents", "name": name}
    params = row_of([])["responses_create_params"]
    return {**task(*rollouts), "responses_create_params": params, "agent_ref": ref, **fields}


ASKED = {
    "size": SIZE,
    "groups": [
        *[row(CALLS, IDLES, _ng_task_index=5) for _ in range(SIZE)],
        *[row(IDLES, name="shed", mask_sample=True) for _ in range(SIZE)],
    ],
    "prompts": {
        "complete": row(CALLS, IDLES),
        "infrastructure once": row(CALLS, fails_once="infrastructure"),
        "data": row(None, IDLES),
        "terminal": row(IDLES, name="elsewhere"),
    },
    "twice": [
        {**row(CALLS), **IDENTITY, "_rowidx": number, "_ng_rollout_index": number}
        for number in range(SIZE)
    ],
}


@pytest.fixture(scope="module")
def found(
    url: str, services: dict[str, str], model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """What NeMo RL makes of `ASKED`."""
    source = os.environ.get("GYM_RAY_NEMO_RL")
    assert source, "run scripts/nemo_rl.sh CHECKOUT, which runs this"
    rows = tmp_path_factory.mktemp("nemo-rl") / "asked.json"
    rows.write_text(json.dumps({**ASKED, "services": services}))
    program = [PYTHON, Path(__file__).with_name("nemo_rl_program.py"), url, model, rows]
    home = {"HOME": str(rows.parent), "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    path = f"{source}:{ROOT}"
    done = subprocess.run(
        [str(part) for part in program],
        env={**os.environ, "GYM_RAY_API_KEY": KEY, "PYTHONPATH": path, **home},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_groups_have_the_rewards_masks_and_agents_of_their_rollouts(found: Any) -> None:
    workshop, shed = sorted(found["groups"], key=lambda group: group["agents"], reverse=True)

    assert workshop["agents"] == ["workshop"] * SIZE
    assert (workshop["rewards"], workshop["masked"]) == ([2.0, 0.0], [False] * SIZE)
    assert (shed["rewards"], shed["masked"]) == ([0.0] * SIZE, [True] * SIZE)


def test_what_is_trained_on_is_token_for_token_what_was_sampled(found: Any, played: Played) -> None:
    rollouts = {tuple(rollout.token_ids.tolist()): rollout for rollout in played.finished}
    samples = [sample for group in found["groups"] for sample in group["samples"]]

    assert len(samples) == 2 * SIZE
    for sample in samples:
        rollout = rollouts[tuple(sample["token_ids"])]
        assert sample["mask"] == rollout.loss_mask.tolist()
        np.testing.assert_allclose(sample["logprobs"], rollout.logprobs, rtol=1e-6)


def test_the_ratio_of_training_to_sampling_is_one(found: Any) -> None:
    for group in found["groups"]:
        assert len(group["ratios"]) > 20
        np.testing.assert_allclose(group["ratios"], 1.0, atol=1e-4)
        # Were a logprob a position off, it would show.
        assert np.abs(np.array(group["shifted"]) - 1).max() > 0.01


def test_a_prompt_is_complete_or_its_failure_is_of_nemo_rls_class(found: Any) -> None:
    prompts = found["prompts"]

    assert prompts["complete"] == {"rewards": [2.0, 0.0]}
    assert prompts["infrastructure once"] == {"rewards": [2.0, 2.0]}
    assert (prompts["data"]["class"], prompts["data"]["is_theirs"]) == ("data", True)
    assert "row 0: verifier_timeout" in prompts["data"]["message"]
    terminal = prompts["terminal"]
    assert (terminal["class"], terminal["is_theirs"]) == ("data", True)
    # August 2026 knows no failure that is never tried again.
    assert terminal["terminal"] in (None, True)
    assert "asks for agent 'elsewhere'" in terminal["message"]


def test_rows_asked_for_by_several_calls_are_sampled_once(found: Any, played: Played) -> None:
    assert found["twice"] == [list(range(SIZE))] * 3
    named = [
        rollout for rollout in played.finished if '"_ng_group_id": "a-group"' in rollout.spec.task
    ]
    assert len(named) == SIZE


def test_shards_are_those_of_nemo_rls_own_set_where_it_has_one(found: Any) -> None:
    if found["streams"] == 3:
        assert "routes" not in found, "August 2026 has no shards"
        return
    assert found["routes"] == {"workshop": "workshop", "workshop_agent": "workshop", "shed": "shed"}
    assert sorted(map(rewards, found["sharded"])) == sorted(map(rewards, found["groups"]))


def rewards(group: Any) -> tuple[Any, ...]:
    return group["agents"], group["rewards"], group["masked"]
