"""Group verifiers under the same deadlines, and in the same processes, as verifiers of rollouts.

A group is judged as one outcome: its rollouts' outcomes and rewards are that outcome's `state`, the
scores come back as the verdict's `turn_rewards`. Whatever goes wrong is a `RolloutFailure`, and no
score.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gym_ray.environment import Environment, Outcome, score_on_loop
from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.judging import time_limit
from gym_ray.task import Task
from gym_ray.verdict import Verdict, VerifierPart
from gym_ray.verifiers.pool import VerifierPool


class GroupVerifiers(Environment):
    """Group verifiers as parts; see `group_part`."""

    def __init__(self, parts: Mapping[str, VerifierPart]) -> None:
        self.parts = parts


def group_part(
    function: Callable[..., Any],
    params: Mapping[str, Any],
    judges: Mapping[str, str],
    *,
    on_loop: bool,
    weight: float,
) -> VerifierPart:
    """A part that judges groups.

    Args:
        function: called with outcomes, rewards and `params`; returns one score for each.
        params: its keyword arguments.
        judges: those of them that name a judge.
        on_loop: it is a coroutine function.
        weight: of its scores.
    """
    score = _ScoreOnLoop if on_loop else _Score
    return VerifierPart(
        score(function, params, judges), on_loop, weight, judges=tuple(judges.values())
    )


class _Score:
    def __init__(
        self, function: Callable[..., Any], params: Mapping[str, Any], judges: Mapping[str, str]
    ) -> None:
        self._function = function
        self._params = params
        self._judges = judges

    def __call__(self, environment: Environment, group: Outcome) -> Any:
        return _verdict(self._called(environment, group), group)

    def _called(self, environment: Environment, group: Outcome) -> Any:
        asked = {key: environment.judges[name] for key, name in self._judges.items()}
        return self._function(*group.state, **{**self._params, **asked})


class _ScoreOnLoop(_Score):
    async def __call__(self, environment: Environment, group: Outcome) -> Any:
        return _verdict(await self._called(environment, group), group)


def _verdict(scores: Any, group: Outcome) -> Verdict:
    outcomes, _ = group.state
    found = [float(score) for score in scores]
    if len(found) != len(outcomes):
        raise ValueError(f"{len(found)} scores for {len(outcomes)} rollouts; return one for each")
    return Verdict(0.0, turn_rewards=tuple(found))


class GroupVerification:
    """Judges groups. Start, use and stop it on one event loop.

    Args:
        verifiers: the group verifiers, with the judges they ask.
        factory: builds them in the processes; see `VerifierPool`.
        processes: how many plain ones run at once.
        timeout_seconds: longest one may run.
    """

    def __init__(
        self,
        verifiers: GroupVerifiers,
        factory: Callable[[], GroupVerifiers],
        *,
        processes: int,
        timeout_seconds: float,
    ) -> None:
        self._verifiers = verifiers
        self._timeout_seconds = timeout_seconds
        self._pool: VerifierPool | None = None
        if not all(part.on_loop for part in verifiers.parts.values()):
            self._pool = VerifierPool(factory, processes=processes, timeout_seconds=timeout_seconds)

    async def start(self) -> None:
        """Start the processes, if any are needed."""
        if self._pool is not None:
            await self._pool.start()

    async def stop(self) -> None:
        """End them."""
        if self._pool is not None:
            await self._pool.stop()

    async def scores(
        self, name: str, outcomes: Sequence[Outcome], rewards: Sequence[float]
    ) -> tuple[float, ...]:
        """One score for each rollout of a group.

        Args:
            name: of the verifier.
            outcomes, rewards: the group.

        Raises:
            RolloutFailure: `verifier_timeout`, `verifier_error`, or what the verifier raised.
        """
        group = Outcome(
            task=Task("group", {}), text="", items=[], state=(tuple(outcomes), tuple(rewards))
        )
        if self._verifiers.parts[name].on_loop:
            return (await self._on_loop(name, group)).turn_rewards
        assert self._pool is not None
        return (await self._pool.verify(group, name)).turn_rewards

    async def _on_loop(self, name: str, group: Outcome) -> Verdict:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                with time_limit(self._timeout_seconds):
                    return await score_on_loop(self._verifiers, group, name)
        except TimeoutError:
            message = f"not finished after {self._timeout_seconds:g} s"
            raise RolloutFailure(FailureKind.VERIFIER_TIMEOUT, message) from None
        except RolloutFailure:
            raise
        except Exception as error:
            raise RolloutFailure(FailureKind.VERIFIER_ERROR, one_line(error)) from error
