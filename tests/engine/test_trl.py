"""TRL trains on the SFT and DPO exports of a real collection, by the page's code.

One optimizer step each from either file, and what the step learned from.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gym_ray.renderers.chatml import ChatMLRenderer
from gym_ray.renderers.chatml_template import chatml_config_matching
from tests import training
from tests.exports import lines

pytestmark = pytest.mark.long(
    "TRL's trainers, set up from both file formats; short: a GRPO step on an export in "
    "test_grpo.py, the messages of SFT and DPO exports in test_nemo_rl_shapes.py."
)

Row = dict[str, Any]

#: Label of a token that is not learned from.
IGNORED = -100


@pytest.fixture(scope="module", params=["jsonl", "parquet"])
def trained(demo: Path, brief_checkpoint: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the page's code leaves behind: the trainers, after their step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(demo)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", demo / "cache")
        return training.run_code(
            "Train with TRL", brief_checkpoint, parquet=request.param == "parquet"
        )


@pytest.fixture(scope="module")
def renderer(brief_checkpoint: Path) -> ChatMLRenderer:
    """What the rollouts were rendered with."""
    tokenizer = AutoTokenizer.from_pretrained(brief_checkpoint)
    return ChatMLRenderer(tokenizer, chatml_config_matching(tokenizer))


def test_sft_learns_every_turn_of_the_assistant_and_nothing_else(
    trained: dict[str, Any], renderer: ChatMLRenderer, demo: Path
) -> None:
    learned = trained["sft"].train_dataset

    assert len(learned) == len(lines(demo / "exports/demo-sft/train.jsonl"))
    for row in learned:
        rendered = renderer.render(row["messages"], tools=_tools(row))
        assert row["input_ids"] == rendered.token_ids
        assert row["labels"] == [
            token if sampled else IGNORED
            for token, sampled in zip(rendered.token_ids, rendered.sampled_mask, strict=True)
        ]
        seen, said = _texts(trained["tokenizer"], row)
        assert said.endswith("<|im_end|>")
        for message in row["messages"]:
            assert message["content"] in seen
            assert message["role"] != "assistant" or message["content"] in said


def test_sft_learns_reasoning_and_calls_and_sees_tools_and_their_results(
    trained: dict[str, Any],
) -> None:
    (row,) = [row for row in trained["sft"].train_dataset if row["environment"] == "desk"]

    seen, said = _texts(trained["tokenizer"], row)

    assert "<think>\nI had better add them.\n</think>" in said
    call = '<tool_call>\n{"name": "add", "arguments": {"first": 2, "second": 3}}\n</tool_call>'
    assert call + "<|im_end|>" in said
    assert "It is 5.<|im_end|>" in said
    for told in ('"description": "Add two digits."', "<tool_response>\n5\n</tool_response>"):
        assert told in seen
        assert told not in said
    calls = [call for message in row["messages"] for call in message.get("tool_calls") or ()]
    assert said.count("<tool_call>") == len(calls) == 3


def test_sfts_loss_is_that_of_the_assistants_tokens(
    trained: dict[str, Any], brief_checkpoint: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(brief_checkpoint, dtype=torch.float32)
    losses = []
    for row in trained["sft"].train_dataset:
        labels = torch.tensor(row["labels"][1:])
        with torch.no_grad():
            logits = model(torch.tensor(row["input_ids"])[None]).logits[0, :-1]
        of_each = torch.nn.functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="none"
        )
        losses += of_each[labels != IGNORED].tolist()

    # TRL computes in bfloat16.
    assert _loss(trained["sft"]) == pytest.approx(sum(losses) / len(losses), rel=5e-3)


def test_dpo_compares_two_answers_to_the_prompt_the_policy_saw(
    trained: dict[str, Any], renderer: ChatMLRenderer, demo: Path
) -> None:
    learned = trained["dpo"].train_dataset

    assert len(learned) == len(lines(demo / "exports/demo-dpo/train.jsonl"))
    assert {row["environment"] for row in learned} == {"talk", "drafts", "desk"}
    for row in learned:
        tools = _tools(row)
        prompt = renderer.render_ids(row["prompt"], tools=tools, add_generation_prompt=True)
        assert row["prompt_ids"] == prompt
        for side in ("chosen", "rejected"):
            whole = renderer.render_ids([*row["prompt"], *row[side]], tools=tools)
            assert row["prompt_ids"] + row[f"{side}_ids"] == whole
            text = trained["tokenizer"].decode(row[f"{side}_ids"])
            assert all(message["content"] in text for message in row[side])
        assert row["chosen_ids"] != row["rejected_ids"]


def test_dpo_starts_from_indifference(trained: dict[str, Any]) -> None:
    assert _loss(trained["dpo"]) == pytest.approx(math.log(2), rel=1e-3)


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_a_step_changes_the_parameters(
    trained: dict[str, Any], brief_checkpoint: Path, name: str
) -> None:
    before = AutoModelForCausalLM.from_pretrained(brief_checkpoint, dtype=torch.float32)
    after = dict(trained[name].model.named_parameters())

    assert trained[name].state.global_step == 1
    assert math.isfinite(_loss(trained[name]))
    for key, parameter in before.named_parameters():
        assert torch.isfinite(after[key]).all()
        assert not torch.equal(after[key].float(), parameter), key


def _loss(trainer: Any) -> float:
    """The loss of the one step."""
    (found,) = [float(entry["train_loss"]) for entry in trainer.state.log_history[-1:]]
    return found


def _tools(row: Row) -> Any:
    """Tools as a trainer reads them: JSON text in Parquet."""
    tools = row.get("tools")
    return json.loads(tools) if isinstance(tools, str) else tools


def _texts(tokenizer: Any, row: Row) -> tuple[str, str]:
    """Text of a row, and of that the part that is learned."""
    learned = [token for token in row["labels"] if token != IGNORED]
    return tokenizer.decode(row["input_ids"]), tokenizer.decode(learned)
