"""NeMo RL trains on gym-ray's rollouts: actors that take the place of its own NemoGym actor.

    import nemo_rl.algorithms.grpo as grpo
    from gym_ray.integrations import nemo_rl

    grpo.spinup_nemo_gym_actor = nemo_rl.spinup_nemo_gym_actor

Owned here: NeMo RL's interface (construction, lifecycle, both forms of `run_rollouts`, shapes of
results, kinds of failures). Not owned here: rollouts, which run in a gym-ray service, and NeMo RL,
which is not imported. Importing this needs Ray and neither torch, vLLM nor gym-ray's serving half.
docs/nemo-rl.md is the recipe.
"""

from gym_ray.integrations.nemo_rl.actor import NemoGym, NemoGymOfReleases
from gym_ray.integrations.nemo_rl.failures import GymTransportError, RolloutDataFailure
from gym_ray.integrations.nemo_rl.spinup import spinup_nemo_gym_actor

__all__ = [
    "GymTransportError",
    "NemoGym",
    "NemoGymOfReleases",
    "RolloutDataFailure",
    "spinup_nemo_gym_actor",
]
