"""The weights an application has to have, where every replica finds them at its start.

Owned here: one record per application in the key-value store of Ray's head node, which is where
Serve keeps its own state too: both outlive drivers and replicas, and end with the cluster. Not
owned here: who writes it when (weights), who follows it (live_weights).

Serve's `user_config` was the other candidate. It reaches later replicas as well, but Serve rolls
it out to a fifth of the replicas at a time, and weights sent over NCCL have to be received by all
at once; it says not which replica has what; and it changes by deploying the whole application
anew.
"""

from __future__ import annotations

import dataclasses
import json

from gym_ray.policies.weights import WeightsUpdate

_NAMESPACE = b"gym_ray_weights"


@dataclasses.dataclass(frozen=True, slots=True)
class WeightsRecord:
    """What replicas have to have.

    Attributes:
        version: of the weights.
        origin: see `WeightsUpdate.origin`.
        checkpoint: directory to load them from; None when they exist in other replicas only.
        fingerprint: of that directory.
        mode, timeout_seconds: of the update, for a replica that missed it.
    """

    version: int
    origin: str
    checkpoint: str | None
    fingerprint: str | None
    mode: str
    timeout_seconds: float

    @classmethod
    def of(cls, update: WeightsUpdate, fingerprint: str | None) -> WeightsRecord:
        return cls(
            version=update.version,
            origin=update.origin,
            checkpoint=update.checkpoint,
            fingerprint=fingerprint,
            mode=update.mode,
            timeout_seconds=update.timeout_seconds,
        )

    def update(self) -> WeightsUpdate | None:
        """The update for a replica that missed it; None when there is nothing to load it from."""
        if self.checkpoint is None:
            return None
        return WeightsUpdate.model_validate(
            {
                "version": self.version,
                "source": self.checkpoint,
                "mode": self.mode,
                "timeout_seconds": self.timeout_seconds,
            }
        )


class WeightsStore:
    """The record of one application. Its methods block; call them off the event loop.

    Args:
        application: Serve's name of it.
        model: it was started with. Weights of another, which `serve deploy` has replaced under the
            same name, are none of this one's.
    """

    def __init__(self, application: str, model: str) -> None:
        self._key = f"{application}/{model}".encode()

    def read(self) -> WeightsRecord | None:
        """None while the policy has the weights it was started with."""
        from ray.experimental import internal_kv

        text = internal_kv._internal_kv_get(self._key, namespace=_NAMESPACE)
        return None if text is None else WeightsRecord(**json.loads(text))

    def write(self, record: WeightsRecord) -> None:
        from ray.experimental import internal_kv

        text = json.dumps(dataclasses.asdict(record))
        internal_kv._internal_kv_put(self._key, text.encode(), namespace=_NAMESPACE)

    @staticmethod
    def forget(application: str) -> None:
        """The application is gone, or begins anew."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_del(
            f"{application}/".encode(), del_by_prefix=True, namespace=_NAMESPACE
        )
