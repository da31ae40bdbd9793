"""verl: an agent loop whose rollouts a running service makes (tried with verl 0.9.1).

verl finds it by a file that `actor_rollout_ref.rollout.agent.agent_loop_config_path` names:

    - name: gym_ray
      _target_: gym_ray.integrations.verl.RolloutAgentLoop
      base_url: http://127.0.0.1:8000

Owned here: verl's names for what a rollout has. Not owned here: tokens (the service), and weights:
verl updates its own engine, not the service's. Importing this needs no verl. See docs/trainers.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gym_ray.client import AsyncRolloutClient
from gym_ray.integrations.completion import completion_of


def rows(tasks: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of a dataset of verl's. `prompt` is only for its logs: the service renders `task`."""
    for index, task in enumerate(tasks):
        yield {
            "prompt": [{"role": "user", "content": f"task {index}"}],
            "task": json.dumps(task, ensure_ascii=False),
            "agent_name": "gym_ray",
            "data_source": "gym_ray",
            "extra_info": {"index": index},
        }


class RolloutAgentLoop:
    """One of verl's agent loops, by what it does: verl makes one for each rollout and runs it.

    It is not derived from `AgentLoopBase`, which would set up a tokenizer for every rollout.

    Args:
        trainer_config: verl's; holds the whole config as `config`.
        base_url: of the service.
        api_key: its key; None for the environment variable `GYM_RAY_API_KEY`.
        timeout_seconds: deadline of one rollout, with its retries.
        others: what verl gives to every loop (its server, its tokenizer, …); not used.
    """

    def __init__(
        self,
        trainer_config: Any,
        base_url: str,
        api_key: str | None = None,
        timeout_seconds: float = 3600.0,
        **others: Any,
    ) -> None:
        self._lengths = trainer_config.config.actor_rollout_ref.rollout
        self._base_url = base_url
        self._api_key = api_key
        self._timeout_seconds = timeout_seconds

    async def run(self, sampling_params: dict[str, Any], *, task: str, **fields: Any) -> Any:
        """One rollout of a task.

        Args:
            sampling_params: temperature and top_p are asked for.
            task: the task row, as JSON.
            fields: the row's other columns; not used.

        Returns:
            verl's `AgentLoopOutput`, with the verdict as its score, cut to `response_length`.

        Raises:
            NotTrainable: it failed: verl has no place for a missing rollout.
            ClientError: the service cannot be asked.
            ValueError: its prompt is longer than `prompt_length`.
        """
        async with AsyncRolloutClient(self._base_url, api_key=self._api_key) as client:
            (result,) = [
                result
                async for result in client.run(
                    [json.loads(task)],
                    temperature=sampling_params["temperature"],
                    top_p=sampling_params["top_p"],
                    max_output_tokens=self._lengths.response_length,
                    timeout_seconds=self._timeout_seconds,
                )
            ]
        completion = completion_of(result.rollout)
        if len(completion.prompt_ids) > self._lengths.prompt_length:
            raise ValueError(
                f"a prompt has {len(completion.prompt_ids)} tokens; set data.max_prompt_length "
                f"(now {self._lengths.prompt_length}) to at least that: what a policy was asked "
                "cannot be cut afterwards"
            )
        from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

        length = self._lengths.response_length
        return AgentLoopOutput(
            prompt_ids=completion.prompt_ids,
            response_ids=completion.completion_ids[:length],
            response_mask=completion.mask[:length],
            response_logprobs=completion.logprobs[:length],
            reward_score=completion.reward,
            num_turns=2 * len(result.turns),
            metrics=AgentLoopMetrics(
                generate_sequences=sum(turn.generation_seconds for turn in result.turns),
                tool_calls=sum(turn.tool_seconds for turn in result.turns),
            ),
            extra_fields={
                "turn_scores": [],
                "tool_rewards": [],
                "min_global_steps": completion.versions[0],
                "max_global_steps": completion.versions[1],
            },
        )
