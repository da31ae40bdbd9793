"""NeMo RL trains on gym-ray's rollouts: actors that take the place of its own NemoGym actor.

    from gym_ray.integrations import nemo_rl

    nemo_rl.exchange_nemo_gym()  # before NeMo RL's own modules are imported

Owned here: NeMo RL's interface (construction, lifecycle, the forms of `run_rollouts`, shapes of
results, kinds of failures). Not owned here: rollouts, which run in a gym-ray service, and NeMo RL,
which only the exchange imports. Importing this needs Ray and neither torch, vLLM nor gym-ray's
serving half. docs/nemo-rl.md is the recipe.
"""

from gym_ray.integrations.nemo_rl.actor import NemoGym, NemoGymOfAugust, NemoGymOfReleases
from gym_ray.integrations.nemo_rl.exchange import exchange_nemo_gym
from gym_ray.integrations.nemo_rl.failures import (
    GymTerminalEpisodeFailure,
    GymTransportError,
    RolloutDataFailure,
)

__all__ = [
    "GymTerminalEpisodeFailure",
    "GymTransportError",
    "NemoGym",
    "NemoGymOfAugust",
    "NemoGymOfReleases",
    "RolloutDataFailure",
    "exchange_nemo_gym",
]
