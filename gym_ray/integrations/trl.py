"""TRL: `GRPOTrainer` on rollouts of a running service (tried with TRL 1.16).

    trainer = GRPOTrainer(
        model, reward, train_dataset=prompts(tasks), rollout_func=Rollouts(client), args=…
    )

Owned here: TRL's names for what a rollout has. Not owned here: generating (the service), and the
loss (TRL). Importing this needs no TRL. See docs/trainers.md.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gym_ray.client import ClientError, RolloutClient, RolloutResult
from gym_ray.client.call_options import CallOptions
from gym_ray.integrations.completion import Completion, NotTrainable, completion_of


def prompts(tasks: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Rows for `datasets.Dataset.from_list`: the "prompt" is the whole task row, as JSON.

    TRL hands nothing but prompts to a rollout function, and renders none of them itself.
    """
    return [{"prompt": json.dumps(task, ensure_ascii=False)} for task in tasks]


def reward(completions: Sequence[Any], reward: list[float | None], **_: Any) -> list[float | None]:
    """TRL reward function: the verdicts; None, which TRL leaves out, for failed rollouts."""
    assert len(reward) == len(completions)
    return reward


class TrainerRollouts:
    """TRL `rollout_func`: prompts are task rows, completions whole rollouts.

    Temperature, top_p and max_completion_length of the trainer's `args` are asked for, the last
    for each turn. A rollout that cannot be trained on is a single masked token without reward.

    Args:
        client: of the service.
        checkpoints: where the trainer's weights are saved and given to the service before rollouts
            of a new step are asked for, a directory that the service can read; None if something
            else gives it new weights. Only the last is kept.
        max_failed_share: more failed rollouts of one call than that are an error.
        timeout_seconds: deadline of one call.
    """

    def __init__(
        self,
        client: RolloutClient,
        *,
        checkpoints: str | Path | None = None,
        max_failed_share: float = 0.25,
        timeout_seconds: float = 3600.0,
    ) -> None:
        self._client = client
        self._checkpoints = None if checkpoints is None else Path(checkpoints)
        self._step: int | None = None
        self._max_failed_share = max_failed_share
        self._timeout_seconds = timeout_seconds

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, list[Any]]:
        """What TRL asks of a rollout function, `env_mask`, and `reward` for `reward`.

        Raises:
            ClientError: the service cannot be asked, or too many rollouts failed.
        """
        if self._checkpoints is not None and self._step != trainer.state.global_step:
            self._refit(self._checkpoints, trainer)
        options = CallOptions(
            temperature=trainer.args.temperature,
            top_p=trainer.args.top_p,
            max_output_tokens=trainer.args.max_completion_length,
            timeout_seconds=self._timeout_seconds,
        )
        results = self._results(prompts, options)
        end = trainer.processing_class.eos_token_id
        rows: dict[str, list[Any]] = defaultdict(list)
        failures = []
        for result in results:
            completion: Completion | None = None
            try:
                completion = completion_of(result.rollout)
            except NotTrainable as error:
                failures.append(error)
            rows["prompt_ids"].append(completion.prompt_ids if completion else [end])
            rows["completion_ids"].append(completion.completion_ids if completion else [end])
            rows["logprobs"].append(completion.logprobs if completion else [0.0])
            rows["env_mask"].append(completion.mask if completion else [0])
            rows["reward"].append(completion.reward if completion else None)
        if len(failures) > self._max_failed_share * len(results):
            raise ClientError(
                f"{len(failures)} of {len(results)} rollouts cannot be trained on, the first since "
                f"{failures[0]}"
            ) from failures[0]
        return dict(rows)

    def _results(self, prompts: list[str], options: CallOptions) -> list[RolloutResult]:
        """One rollout for each prompt, in their order; equal prompts are a group."""
        places: dict[str, list[int]] = defaultdict(list)
        for place, prompt in enumerate(prompts):
            places[prompt].append(place)
        sizes: dict[int, list[str]] = defaultdict(list)
        for prompt, found in places.items():
            sizes[len(found)].append(prompt)
        results: dict[int, RolloutResult] = {}
        for size, chosen in sizes.items():
            for group in self._client.groups([json.loads(row) for row in chosen], size, **options):
                results.update(zip(places[chosen[group.index]], group.results, strict=True))
        return [results[place] for place in range(len(prompts))]

    def _refit(self, checkpoints: Path, trainer: Any) -> None:
        """All processes of the trainer come here; what they share is saved once."""
        step = trainer.state.global_step
        folder = checkpoints / f"step-{step}"
        trainer.save_model(str(folder))
        if trainer.accelerator.is_main_process:
            self._client.refit(folder)
            if self._step is not None:
                shutil.rmtree(checkpoints / f"step-{self._step}")
        trainer.accelerator.wait_for_everyone()
        self._step = step
