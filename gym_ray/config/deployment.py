"""Sections of a deployment on Ray Serve: how many replicas, and what each claims."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field

from gym_ray.config.section import Section


class AutoscalingConfig(Section):
    """How many replicas a deployment has; handed to Ray Serve."""

    min_replicas: int = Field(1, ge=0)
    """Replicas kept when idle; 0 releases everything, and the next rollout waits for a start."""
    max_replicas: int = Field(1, ge=1)
    """Replicas at most."""
    target_ongoing_requests: float = Field(200.0, gt=0)
    """Turns (policy) or rollouts (environment) in work per replica; more on average adds some."""
    look_back_seconds: float = Field(10, gt=0)
    """The load that counts is the mean over so long."""
    upscale_delay_seconds: float = Field(10, ge=0)
    """How long more replicas must be wanted before they are added."""
    downscale_delay_seconds: float = Field(120, ge=0)
    """How long fewer replicas must be wanted before the others are let go. One that is let go
    takes no new rollouts and finishes those it has."""

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> AutoscalingConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) is more than max_replicas "
                f"({self.max_replicas})"
            )
        return self


class PolicyAutoscalingConfig(AutoscalingConfig):
    """How many replicas a policy has: as many as its turns or its KV cache ask for."""

    target_kv_cache_usage: float = Field(0.8, gt=0, le=1)
    """Share of a replica's KV cache in use, were its waiting turns in it too; more on average adds
    some. Only vLLM tells it."""


class ResourcesConfig(Section):
    """Resources one replica claims from the cluster."""

    num_gpus: float = Field(0, ge=0)
    """GPUs of one replica; more than one becomes vLLM's tensor-parallel size."""
    num_cpus: float = Field(1, ge=0)
    """Logical CPUs of one replica."""
    bundles: list[dict[str, float]] | None = None
    """Placement-group bundles of one replica that spans nodes, one for each GPU: `{GPU: 1}`."""
    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How the bundles are placed."""

    def total(self, kind: Literal["CPU", "GPU"]) -> float:
        """How many of a kind one replica claims."""
        if self.bundles is not None:
            return sum(bundle.get(kind, 0) for bundle in self.bundles)
        return self.num_gpus if kind == "GPU" else self.num_cpus

    @pydantic.field_validator("bundles")
    @classmethod
    def _one_gpu_each(cls, value: list[dict[str, float]] | None) -> list[dict[str, float]] | None:
        if value is not None and not value:
            raise ValueError("name at least one bundle, or leave bundles out")
        for bundle in value or ():
            if bundle.get("GPU", 0) > 1:
                raise ValueError(
                    f"a bundle has {bundle['GPU']:g} GPUs, and vLLM places one worker in each "
                    f"bundle; write {bundle['GPU']:g} bundles of {{GPU: 1}} instead"
                )
        return value
