"""What a client yields: rollouts, and groups of them, as values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from gym_ray.errors import FailureKind
from gym_ray.nemo_gym import output_row
from gym_ray.rollout import LossMask, Rollout, Status, TruncationReason
from gym_ray.turn import Logprobs, Tokens, Turn


@dataclasses.dataclass(frozen=True, slots=True)
class RolloutResult:
    """One finished rollout, and which of those asked for it is.

    Attributes:
        index: position of the task in what was given.
        rollout_index: which of the task's rollouts it is; 0 in `run`.
        rollout: all of it, as `read_rollouts` yields it too. The other properties are its fields.
    """

    index: int
    rollout_index: int
    rollout: Rollout

    @property
    def status(self) -> Status:
        """`completed`, `truncated` (verified all the same) or `failed` (no reward)."""
        return self.rollout.status

    @property
    def failed(self) -> bool:
        return self.rollout.status == "failed"

    @property
    def truncation_reason(self) -> TruncationReason | None:
        return self.rollout.truncation_reason

    @property
    def reward(self) -> float | None:
        """None unless verified."""
        return self.rollout.reward

    @property
    def reward_components(self) -> Mapping[str, float]:
        """Weighted parts that sum to the reward, when there are any."""
        return self.rollout.reward_components

    @property
    def metrics(self) -> Mapping[str, float]:
        return self.rollout.metrics

    @property
    def error_kind(self) -> FailureKind | None:
        """Where it failed and how; None unless failed."""
        return self.rollout.error_kind

    @property
    def error(self) -> str | None:
        return self.rollout.error

    @property
    def token_ids(self) -> Tokens:
        """int32 [T], prompts and generations; empty where there are none."""
        return self.rollout.token_ids

    @property
    def loss_mask(self) -> LossMask:
        """int8 [T], 1 where the policy sampled."""
        return self.rollout.loss_mask

    @property
    def logprobs(self) -> Logprobs:
        """float32 [T], sampling logprob where sampled, 0 elsewhere."""
        return self.rollout.logprobs

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Policy calls: lengths, stop reasons, and which weights sampled which tokens."""
        return self.rollout.turns

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The task's conversation as chat messages; see `Rollout.messages`."""
        return self.rollout.messages

    @property
    def text(self) -> str:
        """What the policy finally said; see `Rollout.text`."""
        return self.rollout.text

    def show(self, *, width: int | None = None, whole: bool = False) -> None:
        """Print the rollout to read; see `Rollout.show`."""
        self.rollout.show(width=width, whole=whole)

    def _repr_html_(self) -> str:
        return self.rollout._repr_html_()

    def row(self) -> dict[str, Any]:
        """NeMo Gym's output row: the task row's keys, `response` with token fields, `reward`."""
        return output_row(self.rollout)


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class RolloutGroup:
    """All rollouts of one task.

    Example:
        >>> for group in client.groups(tasks, 8):                 # doctest: +SKIP
        ...     print(group.rewards, group.advantages)

    Attributes:
        index: position of the task in what was given.
        results: as many as were asked for, in the order of their `rollout_index`.
    """

    index: int
    results: tuple[RolloutResult, ...]

    @property
    def rewards(self) -> list[float | None]:
        """Reward of each rollout; None for those that failed."""
        return [result.reward for result in self.results]

    @property
    def advantages(self) -> list[float | None]:
        """GRPO's advantage of each rollout, relative to the others; None for those that failed.

        The reward in standard deviations (ddof 1) from the mean of those that have one, and 0 where
        all rewards are equal (Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, section 4.1.2). The
        same numbers as `advantage_grpo` of `gym-ray export rl`.
        """
        from gym_ray.verifiers.advantages import standardized

        rewards = self.rewards
        found = standardized(np.array([reward for reward in rewards if reward is not None]))
        left = iter(found.tolist())
        return [None if reward is None else next(left) for reward in rewards]

    @property
    def failures(self) -> tuple[RolloutResult, ...]:
        return tuple(result for result in self.results if result.failed)

    def show(self, *, width: int | None = None) -> None:
        """Print a line for each rollout, and the best and the worst of them to read.

        Args:
            width: of a line at most; None for the terminal's.
        """
        from gym_ray.conversation.group_text import group_text
        from gym_ray.conversation.rollout_text import write

        write(group_text(self._rollouts, advantages=self.advantages, width=width))

    def __repr__(self) -> str:
        from gym_ray.conversation.group_text import headline

        return f"<group {self.index}: {headline(self._rollouts)}>"

    def _repr_html_(self) -> str:
        from gym_ray.conversation.group_html import group_html

        return group_html(self._rollouts, advantages=self.advantages)

    @property
    def _rollouts(self) -> list[Rollout]:
        return [result.rollout for result in self.results]
