"""Where a replica lives: in an actor of Ray Serve, or in the process of an embedded collection.

The replicas themselves are the same. What they cannot know is how they are called there, how they
end when they are broken, and where the record of their weights is.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from gym_ray.serving.options import POLICY_DEPLOYMENT
from gym_ray.serving.weights_record import WeightsStore


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """What a replica is told of its surroundings.

    Attributes:
        tag: name of the replica, different for every start of one.
        end: ends a replica that is broken, so that another takes its place.
        weights: where it finds the weights it has to have; None for those that never change.
    """

    tag: str
    end: Callable[[int], object]
    weights: WeightsStore | None = None

    @classmethod
    def of_serve(cls, model: str) -> Host:
        """The actor of Serve that this process is.

        Args:
            model: the policy's.
        """
        from ray import serve

        context = serve.get_replica_context()
        is_policy = context.deployment == POLICY_DEPLOYMENT
        store = WeightsStore(context.app_name, model) if is_policy else None
        # A gone replica gets no calls, and Serve replaces it.
        return cls(context.replica_id.unique_id, os._exit, store)
