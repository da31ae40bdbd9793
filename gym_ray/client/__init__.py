"""The Python client of a running service (`gym-ray serve`): rollouts over HTTP, exactly once.

    with gym_ray.RolloutClient("http://127.0.0.1:8000") as client:
        for result in client.run(tasks):
            print(result.index, result.reward, result.token_ids)

Owned here: asking, waiting, reconnecting and acknowledging. Not owned here: what runs where; the
service does that, and nothing of it is imported here.
"""

from gym_ray.client.asynchronous import AsyncRolloutClient
from gym_ray.client.blocking import RolloutClient
from gym_ray.client.errors import (
    BatchConflict,
    CallTimeout,
    ClientError,
    GroupFailed,
    RequestRefused,
    ResultsMissing,
    ServiceUnavailable,
    Unauthorized,
    UpdateRefused,
)
from gym_ray.client.results import RolloutGroup, RolloutResult

__all__ = [
    "AsyncRolloutClient",
    "BatchConflict",
    "CallTimeout",
    "ClientError",
    "GroupFailed",
    "RequestRefused",
    "ResultsMissing",
    "RolloutClient",
    "RolloutGroup",
    "RolloutResult",
    "ServiceUnavailable",
    "Unauthorized",
    "UpdateRefused",
]
