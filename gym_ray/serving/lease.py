"""Leases: which processes still need an application.

A lease is an actor that belongs to the process that took it. Ray kills it when that process
ends, however it ends, so "somebody still needs this application" is "a lease on it is alive",
and no clock, file or heartbeat of ours is involved. An application without a lease belonged to
a killed process: the next command with the same config adopts it, any other takes it down.
"""

from __future__ import annotations

import os
import socket
import uuid
from typing import Any

APPLICATION_PREFIX = "gym-ray-"
_SEPARATOR = ":lease:"


class Lease:
    """A hold on one application, for as long as this process lives or until `release`."""

    def __init__(self, application: str) -> None:
        import ray

        # Here, as the actor imports this module: without them it starts in half the CPU time.
        from gym_ray.serving.cluster import NAMESPACE, on_driver_node

        holder = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:6]}"
        self.application = application
        self._name = f"{application}{_SEPARATOR}{holder}"
        self._actor: Any = (
            ray.remote(_Holder)
            .options(name=self._name, namespace=NAMESPACE, **on_driver_node())
            .remote()
        )
        # Until the actor is registered nobody else can see the lease.
        ray.get(self._actor.ping.remote(), timeout=120)

    def release(self) -> None:
        """Give the hold up. Idempotent."""
        import ray

        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    def others(self) -> list[str]:
        """Holders of this application other than this one."""
        return [name for name in holders(self.application) if name not in self._name]


class _Holder:
    def ping(self) -> None:
        return None


def holders(application: str) -> list[str]:
    """`host/pid/…` of every process that holds the application."""
    prefix = f"{application}{_SEPARATOR}"
    return [name.removeprefix(prefix) for name in _leases() if name.startswith(prefix)]


def any_holders() -> bool:
    """Whether any process holds an application, also one that is not there yet."""
    return bool(_leases())


def _leases() -> list[str]:
    from ray.util import list_named_actors

    from gym_ray.serving.cluster import NAMESPACE

    return [
        actor["name"]
        for actor in list_named_actors(all_namespaces=True)
        if actor["namespace"] == NAMESPACE and _SEPARATOR in actor["name"]
    ]
