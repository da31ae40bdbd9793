"""TRL trains on rollouts of a running gateway: its own `GRPOTrainer`, on CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from gym_ray import RolloutClient
from gym_ray.client import ClientError
from gym_ray.integrations.trl import TrainerRollouts, prompts, reward
from gym_ray.rollout import Rollout
from tests.gateway.played import ADMIN_KEY, CALLS, IDLES, KEY, Played, Weights, played_service, task

GROUP = 4


@pytest.fixture
def played() -> Played:
    return Played()


@pytest.fixture
def weights() -> Weights:
    return Weights()


@pytest.fixture
def url(played: Played, weights: Weights) -> Iterator[str]:
    with played_service(played, weights) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[RolloutClient]:
    with RolloutClient(url, api_key=KEY, admin_key=ADMIN_KEY, max_retries=2) as client:
        yield client


class WatchedTrainer(GRPOTrainer):
    """Keeps what it trains on."""

    seen: list[dict[str, Any]]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        self.seen = [*getattr(self, "seen", []), batch]
        return batch


def tiny_model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Two layers of random weights, whose tokens are the scripted policy's bytes."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"eos_token_id": 258, "pad_token_id": 256}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=259, **sizes, **heads, **ends))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({str(token): token for token in range(259)})),
        eos_token="258",
        pad_token="256",
    )
    return model, tokenizer


def trainer(
    rollouts: TrainerRollouts, tasks: list[Any], folder: Path, **changes: Any
) -> WatchedTrainer:
    model, tokenizer = tiny_model()
    arguments = {
        "output_dir": str(folder / "trained"),
        "per_device_train_batch_size": GROUP,
        "num_generations": GROUP,
        "max_completion_length": 512,
        "max_steps": 1,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        **changes,
    }
    return WatchedTrainer(
        model,
        reward,
        args=GRPOConfig(**arguments),
        train_dataset=Dataset.from_list(prompts(tasks)),
        processing_class=tokenizer,
        rollout_func=rollouts,
    )


def trained_rows(batch: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What each row of a batch says: tokens, which are learned from, and their logprobs."""
    rows = []
    for n in range(len(batch["prompt_ids"])):
        kept = batch["completion_mask"][n].bool()
        learned = (batch["completion_mask"] * batch["tool_mask"])[n].bool()
        rows.append(
            (
                batch["prompt_ids"][n][batch["prompt_mask"][n].bool()].tolist()
                + batch["completion_ids"][n][kept].tolist(),
                batch["completion_ids"][n][learned].tolist(),
                batch["sampling_per_token_logps"][n][learned].tolist(),
            )
        )
    return sorted(rows)


def rollout_rows(rollouts: list[Rollout]) -> list[tuple[Any, ...]]:
    return sorted(
        (
            rollout.token_ids.tolist(),
            rollout.token_ids[rollout.loss_mask == 1].tolist(),
            rollout.logprobs[rollout.loss_mask == 1].tolist(),
        )
        for rollout in rollouts
    )


def test_a_step_trains_on_exactly_the_tokens_and_logprobs_that_were_sampled(
    client: RolloutClient, played: Played, tmp_path: Path
) -> None:
    grpo = trainer(TrainerRollouts(client), [task(CALLS, IDLES, CALLS, IDLES)], tmp_path)
    before = [parameter.clone() for parameter in grpo.model.parameters()]

    grpo.train()

    (batch,) = grpo.seen
    assert trained_rows(batch) == rollout_rows(played.finished)
    assert sorted(len(rollout.turns) for rollout in played.finished) == [1, 1, 3, 3]
    assert batch["advantages"].tolist() == pytest.approx([0.866, -0.866, 0.866, -0.866], abs=1e-3)
    changed = [not torch.equal(*pair) for pair in zip(before, grpo.model.parameters(), strict=True)]
    assert all(changed)
    (log,) = [entry for entry in grpo.state.log_history if "reward" in entry]
    assert (log["reward"], log["rewards/reward/mean"]) == (1.0, 1.0)


def test_what_tools_said_is_seen_and_not_learned(
    client: RolloutClient, played: Played, tmp_path: Path
) -> None:
    grpo = trainer(TrainerRollouts(client), [task(CALLS)], tmp_path)

    grpo.train()

    for tokens, learned, _ in trained_rows(grpo.seen[0]):
        told = b'<tool_response>\n{"count":1,'
        assert told in bytes(token for token in tokens if token < 256)
        assert told not in bytes(token for token in learned if token < 256)


def test_a_failed_rollout_moves_nothing(
    client: RolloutClient, played: Played, tmp_path: Path
) -> None:
    grpo = trainer(TrainerRollouts(client), [task(CALLS, None, IDLES, IDLES)], tmp_path)

    grpo.train()

    (batch,) = grpo.seen
    assert batch["tool_mask"][1].tolist()[0] == 0
    assert (batch["completion_mask"] * batch["tool_mask"]).sum(1)[1] == 0
    # The group's mean and spread are those of the three others.
    assert batch["advantages"].tolist() == pytest.approx([1.1547, 0, -0.5774, -0.5774], abs=1e-3)


def test_too_many_failures_are_an_error(client: RolloutClient, tmp_path: Path) -> None:
    grpo = trainer(TrainerRollouts(client), [task(CALLS, None, None, IDLES)], tmp_path)

    with pytest.raises(ClientError, match=r"2 of 4 .* failed with verifier_timeout: too slow"):
        grpo.train()


def test_each_step_is_sampled_with_the_weights_of_the_step_before(
    client: RolloutClient, weights: Weights, tmp_path: Path
) -> None:
    rollouts = TrainerRollouts(client, checkpoints=tmp_path / "weights")
    grpo = trainer(rollouts, [task(CALLS, IDLES)], tmp_path, max_steps=3)

    grpo.train()

    assert [update.version for update in weights.updates] == [1, 2, 3]
    names = [Path(str(update.source)).name for update in weights.updates]
    assert names == ["step-0", "step-1", "step-2"]
    assert all({"config.json", "model.safetensors"} <= files for files in weights.loaded)
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["step-2"]


def test_the_trainers_sampling_is_asked_for_and_every_prompt_gets_its_own(
    client: RolloutClient, played: Played
) -> None:
    rows = [task(CALLS, name="a"), task(IDLES, name="b")]
    a, b = [row["prompt"] for row in prompts(rows)]
    args = SimpleNamespace(temperature=0.7, top_p=0.9, max_completion_length=300)
    fake = SimpleNamespace(args=args, processing_class=SimpleNamespace(eos_token_id=258))

    found = TrainerRollouts(client)([a, b, b, a, b], fake)

    assert found["reward"] == [2, 0, 0, 2, 0]
    for rollout in played.finished:
        sampling = json.loads(rollout.sampling)
        assert (sampling["temperature"], sampling["top_p"]) == (0.7, 0.9)
        assert sampling["max_output_tokens"] == 300
    assert set(map(len, found.values())) == {5}
