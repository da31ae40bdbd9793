"""Verification without processes, for tests that run whole rollouts in one process."""

from gym_ray.environment import Environment, Outcome, score_in_process
from gym_ray.verdict import Verdict
from gym_ray.verifiers.verification import Verification


def on_loop(environment: Environment, timeout_seconds: float = 10) -> Verification:
    """Verification of an environment whose verifiers are coroutines."""
    return Verification(
        environment, type(environment), processes=1, timeout_seconds=timeout_seconds
    )


def here(environment: Environment) -> Verification:
    """Verification of any environment; plain verifiers run without a deadline."""
    return _Here(environment, type(environment), processes=1, timeout_seconds=60.0)


class _Here(Verification):
    async def _part(self, name: str, outcome: Outcome) -> Verdict:
        if self._on_loop[name]:
            return await super()._part(name, outcome)
        return score_in_process(self._environment, name, outcome)
