"""Group verifiers under the same deadlines, and in the same processes, as verifiers of rollouts.

Whatever goes wrong is a `RolloutFailure`, and no score.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gym_ray.environment import Outcome
from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.judging import Judge, time_limit
from gym_ray.verifiers.pool import VerifierPool


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """The rewarded rollouts of a task.

    Attributes:
        outcomes: what the policy left behind in each.
        rewards: of each, before group verifiers.
    """

    outcomes: tuple[Outcome, ...]
    rewards: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class GroupPart:
    """One group verifier.

    Attributes:
        function: called with outcomes, rewards and `params`; returns one score for each.
        params: its keyword arguments.
        judges: those of them that name a judge, and the judge's name.
        on_loop: it is a coroutine function.
        weight: weight of its scores in the rewards.
    """

    function: Callable[..., Any]
    params: Mapping[str, Any]
    judges: Mapping[str, str]
    on_loop: bool
    weight: float


class GroupVerifiers:
    """The group verifiers of a run.

    Args:
        parts: by `ENVIRONMENT/NAME`.

    Attributes:
        parts: the same.
        judges: those there are, by name; set before anything is judged.
    """

    def __init__(self, parts: Mapping[str, GroupPart]) -> None:
        self.parts = parts
        self.judges: Mapping[str, Judge] = {}

    def judges_asked(self) -> set[str]:
        """Names of the judges that the verifiers ask."""
        return {name for part in self.parts.values() for name in part.judges.values()}

    def score(self, name: str, group: Group) -> tuple[float, ...]:
        """Scores of a plain verifier; called in a pool process."""
        return _checked(self._called(name, group), group)

    async def score_on_loop(self, name: str, group: Group) -> tuple[float, ...]:
        """Scores of a coroutine verifier."""
        return _checked(await self._called(name, group), group)

    def _called(self, name: str, group: Group) -> Any:
        part = self.parts[name]
        asked = {key: self.judges[judge] for key, judge in part.judges.items()}
        return part.function(group.outcomes, group.rewards, **{**part.params, **asked})


def _checked(scores: Any, group: Group) -> tuple[float, ...]:
    found = tuple(float(score) for score in scores)
    if len(found) != len(group.outcomes):
        raise ValueError(
            f"{len(found)} scores for {len(group.outcomes)} rollouts; return one for each"
        )
    if not all(map(math.isfinite, found)):
        raise ValueError(f"the scores {found} are not finite numbers")
    return found


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
            self._pool = VerifierPool(
                factory,
                GroupVerifiers.score,
                processes=processes,
                timeout_seconds=timeout_seconds,
            )

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
        group = Group(tuple(outcomes), tuple(rewards))
        if self._verifiers.parts[name].on_loop:
            return await self._on_loop(name, group)
        assert self._pool is not None
        found: tuple[float, ...] = await self._pool.call(name, group)
        return found

    async def _on_loop(self, name: str, group: Group) -> tuple[float, ...]:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                with time_limit(self._timeout_seconds):
                    return await self._verifiers.score_on_loop(name, group)
        except TimeoutError:
            message = f"not finished after {self._timeout_seconds:g} s"
            raise RolloutFailure(FailureKind.VERIFIER_TIMEOUT, message) from None
        except RolloutFailure:
            raise
        except Exception as error:
            raise RolloutFailure(FailureKind.VERIFIER_ERROR, one_line(error)) from error
