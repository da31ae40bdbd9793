"""`serve`: keep an application up, for collections and clients that come and go."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gym_ray.config import RunConfig, load_config
from gym_ray.errors import Interrupted
from gym_ray.serving.application import Application
from gym_ray.serving.cluster import connect, disconnect

_CHECK_SECONDS = 0.5


def serve(
    config: RunConfig | Mapping[str, Any] | str | Path,
    overrides: Sequence[str] = (),
    *,
    report: Callable[[str], None] = print,
) -> None:
    """Start the application of a config, or hold one that runs, until SIGINT or SIGTERM.

    Call it from the main thread: signals end it. The application is taken down at the end
    unless another process still holds it.

    Args:
        config, overrides: as for `collect`; only `policy`, `environments` and `verification`
            matter.
        report: told what happens, a line at a time.

    Raises:
        ConfigError, GymRayError: it could not start.
    """
    checked = load_config(config, overrides)
    stopping = threading.Event()

    def stop(number: int, frame: Any) -> None:
        stopping.set()

    def check() -> None:
        if stopping.is_set():
            raise Interrupted("stopped while starting up")

    cluster = connect(checked)
    try:
        # After Ray has installed its own.
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            application = Application.deploy(checked, report, check)
            try:
                report(
                    f"serving {application.policy.model} as {application.name}; collections with "
                    "the same policy, environments and verification use it. Ctrl-C stops it"
                )
                while not stopping.wait(_CHECK_SECONDS):
                    pass
            finally:
                report(f"taking down application {application.name}")
                application.close()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    finally:
        disconnect(cluster)
