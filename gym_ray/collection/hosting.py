"""Where a collection's parts run: on Ray, or in a process tree of its own.

The parts are the same: stage, environments, agents, verifiers, policy, segments. What differs is
who starts them and how a stage's calls reach an environment. A run begun in one of the two places
may be continued in the other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from gym_ray.collection.manifest import Manifest
from gym_ray.collection.monitor import Order
from gym_ray.collection.remaining import Positions
from gym_ray.collection.stage import StageSettings
from gym_ray.telemetry.progress import Counts

Say = Callable[[str], None]


class RunningPass(Protocol):
    """What remains of a run, on its way."""

    def running(self) -> bool:
        """Whether it has not ended."""

    def wait(self, seconds: float) -> None:
        """Return when it has ended, or after so many seconds."""

    def counts(self) -> Counts:
        """What it has done so far."""

    def stages(self) -> int:
        """How many stages have started so far."""

    def drained(self) -> bool:
        """Whether an order to drain has been carried out."""

    def order(self, order: Order) -> None:
        """Have it drain or stop."""

    def raise_error(self) -> None:
        """Raise what ended it early, unless that was our own order to stop."""


class Hosting(Protocol):
    """The parts of a collection.

    Attributes:
        application: Serve's name of what runs on Ray, once it does; None elsewhere.
    """

    application: str | None

    def begin(self) -> None:
        """Start what can start while the command still reads its tasks; returns at once."""

    def start(self) -> None:
        """Return when everything is up.

        Raises:
            GymRayError: it cannot be had.
        """

    def facts(self) -> dict[str, Any]:
        """What produces the rollouts, for `RunDirectory.record`."""

    def gateway(self) -> AbstractContextManager[str | None]:
        """Address of the gateway, up while the context lasts; None when no agent needs one."""

    def start_pass(
        self, manifest: Manifest, left: Positions, settings: StageSettings
    ) -> RunningPass:
        """Begin to run what is left.

        Args:
            manifest: of the run.
            left: positions of its rows that are to run, one at least.
            settings: of the run; without `handle_of`, which is set here.
        """

    def close(self) -> None:
        """Take down what was started, however far it came; a second call does nothing."""
