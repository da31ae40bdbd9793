"""Live weights: what an update of a running policy's weights says.

Owned here: the update as a request carries it, and what a replica reports of its weights. Not
owned here: loading (policies), and which replicas load when (serving).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from gym_ray.config.section import Section


class Transfer(Section):
    """Weights that a trainer sends through one of vLLM's weight-transfer engines.

    `policy.engine_args.weight_transfer_config` has to name the same backend.
    """

    backend: Literal["nccl", "ipc"]
    """`nccl` between GPUs of different processes or nodes, `ipc` on the GPUs a trainer shares."""
    init: dict[str, Any] | None = None
    """vLLM's init info, in the first update over a connection. Of `nccl`, `rank_offset` is that of
    the first replica; the others get their own."""
    updates: list[dict[str, Any]] = Field(min_length=1)
    """vLLM's update info of every chunk, in the order the trainer sends them."""
    checkpoint: str | None = None
    """Directory with the same weights, for replicas that start later. Without one they cannot
    start until an update has one."""


class WeightsUpdate(Section):
    """New weights for every replica of the policy."""

    version: int = Field(ge=1, lt=2**31)
    """Number of the weights; more than every earlier one. 0 is what the policy started with."""
    source: str | Transfer = Field(union_mode="left_to_right")
    """Checkpoint directory that every replica can read, or a transfer from a trainer."""
    mode: Literal["keep", "drain"] = "keep"
    """What becomes of generations in flight: `keep` goes on with them under the new weights,
    `drain` lets them end first."""
    timeout_seconds: float = Field(600, gt=0)
    """How long a replica may take; one that takes longer is replaced."""

    @property
    def checkpoint(self) -> str | None:
        """Directory a replica can load the weights from at any time; None when there is none."""
        return self.source if isinstance(self.source, str) else self.source.checkpoint

    @property
    def origin(self) -> str:
        """Where the weights come from, for reports and to tell two updates apart."""
        return self.source if isinstance(self.source, str) else self.source.backend


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A replica among those that take part in one update.

    Attributes:
        position: its number, from 0.
        replicas: how many there are.
    """

    position: int = 0
    replicas: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaWeights:
    """What one policy replica says of its weights.

    Attributes:
        replica: Serve's name of it.
        version: what its tokens are sampled under; 0 until an update.
        origin: checkpoint directory or transfer backend; empty for what it started with.
        fingerprint: of the checkpoint's files (see `policies.bundled.fingerprint`); None of a
            transfer.
        loaded: digest of the weights in the engine's memory; None until an update.
        seconds: what the update took, pause to resume.
        error: why it could not load; such a replica ends and is replaced.
    """

    replica: str
    version: int
    origin: str = ""
    fingerprint: str | None = None
    loaded: str | None = None
    seconds: float = 0.0
    error: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class WeightsReport:
    """The weights of a policy, replica by replica.

    Attributes:
        version: what replicas have to have, also those that start later.
        origin, fingerprint: as of `ReplicaWeights`.
        replicas: those that run, and those that ended over the update.
        starting: replicas that are not up yet; they come up with `version`.
        changed: False when there was nothing to do.
    """

    version: int
    origin: str
    fingerprint: str | None
    replicas: tuple[ReplicaWeights, ...]
    starting: int = 0
    changed: bool = False

    @property
    def failed(self) -> tuple[ReplicaWeights, ...]:
        """Replicas that could not load, or loaded other weights than the rest."""
        return tuple(replica for replica in self.replicas if replica.error is not None)

    def to_json(self) -> dict[str, Any]:
        """For HTTP and `--json`."""
        return {
            **dataclasses.asdict(self),
            "replicas": [dataclasses.asdict(replica) for replica in self.replicas],
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> WeightsReport:
        """The report `to_json` tells."""
        replicas = tuple(ReplicaWeights(**replica) for replica in told["replicas"])
        return cls(**{**told, "replicas": replicas})


@dataclasses.dataclass(frozen=True, slots=True)
class RefusedUpdate:
    """An update that cannot be; no replica has changed.

    Attributes:
        code: `version_conflict`, `busy`, `wrong_source` or `not_updatable`.
        message: what is wrong and what to do about it.
    """

    code: Literal["version_conflict", "busy", "wrong_source", "not_updatable"]
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class StalenessLimit:
    """How old the tokens of a rollout may be while it goes on.

    A rollout's staleness is the policy's current version minus the oldest version any of its
    tokens was sampled under.

    Attributes:
        versions: most staleness.
        oldest_version: of the rollout's earlier turns; None in its first.
        when_stale: what happens to a generation that an update would make too stale: `drop` ends
            it, `wait` holds the update until it has ended.
    """

    versions: int
    oldest_version: int | None = None
    when_stale: Literal["drop", "wait"] = "drop"
