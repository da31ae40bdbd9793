"""Rollouts in NeMo Gym's row shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gym_ray.errors import FailureKind
from gym_ray.nemo_gym import output_row
from gym_ray.renderers.items import items_from_message
from gym_ray.renderers.messages import AssistantMessage, ToolCall
from gym_ray.rollout import Branch, Rollout, RolloutSpec
from gym_ray.turn import Turn

TOKEN_FIELDS = {"prompt_token_ids", "generation_token_ids", "generation_log_probs"}


def spec_of(row: Any, **fields: Any) -> RolloutSpec:
    text = row if isinstance(row, str) else json.dumps(row)
    return RolloutSpec(
        **{
            "rollout_id": "ab12",
            "task_id": "t",
            "task_index": 3,
            "rollout_index": 1,
            "environment": "sums",
            "source_file": "tasks.jsonl",
            "source_line": 4,
            "task": text,
            **fields,
        }
    )


def turn(prompt_length: int, generation_length: int) -> Turn:
    return Turn(prompt_length, generation_length, "stop", (), 0.0, 0.1)


def two_turns(make_rollout: Callable[..., Rollout], row: dict[str, Any], **fields: Any) -> Rollout:
    """A turn that thinks and makes two calls, one of them told the result, and an answer."""
    calls = (ToolCall("c1", "add", "{}"), ToolCall("c2", "add", "{}"))
    items = items_from_message(AssistantMessage("", "hm", calls), item_id_prefix="ab12-0")
    told = {"id": "o", "type": "function_call_output", "call_id": "c1", "output": "3"}
    items.append({**told, "status": "completed"})
    items += items_from_message(AssistantMessage("It is 3."), item_id_prefix="ab12-1")
    values: dict[str, Any] = {
        "spec": spec_of(row),
        "token_ids": np.arange(9, dtype=np.int32),
        "loss_mask": np.array([0, 0, 1, 1, 0, 0, 1, 1, 1], dtype=np.int8),
        "logprobs": np.array([0, 0, -1, -2, 0, 0, -3, -4, -5], dtype=np.float32),
        "turns": (turn(2, 2), turn(6, 3)),
        "response": json.dumps(items),
        "sampling": json.dumps({"temperature": 0.5, "top_p": 1.0, "max_output_tokens": 9}),
    }
    return make_rollout(**{**values, **fields})


ROW = {
    "responses_create_params": {"input": "1 + 2 = ?", "instructions": "Add."},
    "agent_ref": {"type": "responses_api_agents", "name": "adder"},
    "expected_answer": "3",
    "uuid": "u",
    "_ng_task_index": 70,
    "_ng_rollout_id": "x-1",
    "_rowidx": 5,
}


def test_sampled_tokens_beside_the_response_are_in_the_row(
    make_rollout: Callable[..., Rollout],
) -> None:
    item = {"id": "msg_ab12-7", "type": "message", "role": "assistant", "content": "Title."}
    branch = Branch(
        np.array([0, 1, 7], np.int32), np.array([0, 0, 1], np.int8), np.array([0, 0, -1], "f4")
    )
    rollout = two_turns(
        make_rollout, ROW, side_branches=(branch, branch), left_out=json.dumps([[item]])
    )

    row, without = output_row(rollout), output_row(two_turns(make_rollout, ROW))

    tokens = {"token_ids": [0, 1, 7], "loss_mask": [0, 0, 1], "log_probs": [0.0, 0.0, -1.0]}
    assert row.pop("side_branches") == [{"output": [item], **tokens}, {"output": [], **tokens}]
    assert row == without


def test_every_key_of_the_row_stays_as_it_is(make_rollout: Callable[..., Rollout]) -> None:
    row = output_row(two_turns(make_rollout, ROW, metrics={"uuid": 1.0, "accuracy": 0.5}))

    assert {key: row[key] for key in ROW} == ROW
    given = output_row(two_turns(make_rollout, {**ROW, "_ng_rollout_index": 5}))
    assert given["_ng_rollout_index"] == 5
    assert row["accuracy"] == 0.5
    assert row["_ng_rollout_index"] == 1
    assert row["reward"] == 1.0
    assert "reward_components" not in row
    assert "_ng_attempt_index" not in row
    assert "_ng_failure_class" not in row


def test_the_last_item_of_each_turn_carries_the_tokens_of_its_call(
    make_rollout: Callable[..., Rollout],
) -> None:
    output = output_row(two_turns(make_rollout, ROW))["response"]["output"]

    assert [item["type"] for item in output] == [
        "reasoning", "function_call", "function_call", "function_call_output", "message",
    ]  # fmt: skip
    carrying = [item for item in output if TOKEN_FIELDS & item.keys()]
    assert carrying == [output[2], output[4]]
    assert carrying[0]["prompt_token_ids"] == [0, 1]
    assert carrying[0]["generation_token_ids"] == [2, 3]
    assert carrying[0]["generation_log_probs"] == [-1.0, -2.0]
    assert carrying[1]["prompt_token_ids"] == [0, 1, 2, 3, 4, 5]
    assert carrying[1]["generation_token_ids"] == [6, 7, 8]


def test_turns_with_nothing_told_in_between_are_told_apart(
    make_rollout: Callable[..., Rollout],
) -> None:
    items = [
        item
        for number in range(2)
        for item in items_from_message(
            AssistantMessage("", None, (ToolCall("c", "f", "{}"),) * 2),
            item_id_prefix=f"a_b-{number}",
        )
    ]

    output = output_row(two_turns(make_rollout, ROW, response=json.dumps(items)))["response"][
        "output"
    ]

    assert [bool(TOKEN_FIELDS & item.keys()) for item in output] == [False, True, False, True]


def test_items_that_do_not_fit_the_turns_are_an_error(
    make_rollout: Callable[..., Rollout],
) -> None:
    rollout = two_turns(make_rollout, ROW, response="[]")

    with pytest.raises(ValueError, match="of 0 turns and 2 were sampled"):
        output_row(rollout)


def test_usage_and_parameters_of_the_response(make_rollout: Callable[..., Rollout]) -> None:
    tools = json.dumps([{"type": "function", "name": "add", "parameters": {"type": "object"}}])

    response = output_row(two_turns(make_rollout, ROW, tools=tools))["response"]

    assert (response["object"], response["status"]) == ("response", "completed")
    assert response["incomplete_details"] is None
    assert (response["usage"]["input_tokens"], response["usage"]["output_tokens"]) == (8, 5)
    assert response["usage"]["total_tokens"] == 13
    assert (response["temperature"], response["max_output_tokens"]) == (0.5, 9)
    assert response["instructions"] == "Add."
    assert response["tools"][0]["name"] == "add"


def test_a_response_is_one_to_openais_client(make_rollout: Callable[..., Rollout]) -> None:
    from openai.types.responses import Response

    tools = json.dumps([{"type": "function", "name": "add"}])
    rollout = two_turns(make_rollout, ROW, tools=tools)

    parsed = Response.model_validate(output_row(rollout)["response"])

    assert parsed.output_text == "It is 3."


@pytest.mark.parametrize("reason", ["length", "max_turns", "context", "deadline"])
def test_a_truncated_rollout_is_incomplete_and_says_why(
    make_rollout: Callable[..., Rollout], reason: str
) -> None:
    row = output_row(two_turns(make_rollout, ROW, status="truncated", truncation_reason=reason))

    assert row["response"]["status"] == "incomplete"
    assert row["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert row["response"]["metadata"] == {"truncation_reason": reason}
    assert row["reward"] == 1.0


def test_a_failed_rollout_has_a_failure_class_and_no_reward(
    make_rollout: Callable[..., Rollout],
) -> None:
    def failed(kind: FailureKind) -> dict[str, Any]:
        return output_row(
            make_rollout(
                status="failed", error_kind=kind, error="it broke", spec=spec_of(ROW), attempts=3
            )
        )

    row = failed(FailureKind.POLICY_ERROR)
    assert (row["_ng_failure_class"], row["_ng_failure_terminal"]) == ("policy_error", False)
    assert row["reward"] is None
    assert row["response"]["status"] == "failed"
    assert row["response"]["error"]["message"] == "policy_error: it broke"
    assert row["_ng_attempt_index"] == 2
    assert failed(FailureKind.VERIFIER_ERROR)["_ng_failure_terminal"] is True


def test_a_line_that_is_no_task_still_has_a_row(make_rollout: Callable[..., Rollout]) -> None:
    row = output_row(
        make_rollout(
            status="failed",
            error_kind=FailureKind.TASK_INVALID,
            error="row is not JSON",
            spec=spec_of("{nonsense", environment=""),
        )
    )

    assert row["_ng_failure_class"] == "task_invalid"
    assert (row["_ng_task_index"], row["_ng_rollout_index"]) == (3, 1)


def test_components_and_a_string_as_agent(make_rollout: Callable[..., Rollout]) -> None:
    rollout = two_turns(
        make_rollout,
        {**ROW, "agent_ref": "adder"},
        reward=0.75,
        reward_components={"right": 0.5, "short": 0.25},
    )

    row = output_row(rollout)

    assert row["reward_components"] == {"right": 0.5, "short": 0.25}
    assert row["agent_ref"] == {"type": "responses_api_agents", "name": "adder"}


def test_a_policy_that_tells_no_tokens_leaves_items_without_them(
    make_rollout: Callable[..., Rollout],
) -> None:
    empty: dict[str, Any] = {
        "token_ids": np.zeros(0, dtype=np.int32),
        "loss_mask": np.zeros(0, dtype=np.int8),
        "logprobs": np.zeros(0, dtype=np.float32),
    }

    row = output_row(two_turns(make_rollout, ROW, **empty))

    assert len(row["response"]["output"]) == 5
    assert not any(TOKEN_FIELDS & item.keys() for item in row["response"]["output"])
