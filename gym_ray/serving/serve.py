"""`serve`: keep an application and its HTTP gateway up, for collections and clients that come
and go.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gym_ray.config.commands import ServeConfig
from gym_ray.config.load import RunConfig, load_config
from gym_ray.errors import Interrupted
from gym_ray.gateway.security import is_loopback
from gym_ray.registry import idle_tools, load_environments, with_agents
from gym_ray.serving.application import Application
from gym_ray.serving.cluster import connect, disconnect
from gym_ray.serving.gateway_application import GatewayApplication
from gym_ray.serving.http import start_http
from gym_ray.serving.preconditions import check_application
from gym_ray.serving.recorder import RecordTarget
from gym_ray.store.log_file import LogFile, log_of_command
from gym_ray.store.run_directory import RunDirectory

_CHECK_SECONDS = 0.5


def serve(
    config: RunConfig | Mapping[str, Any] | str | Path,
    overrides: Sequence[str] = (),
    *,
    report: Callable[[str], None] = print,
) -> None:
    """Start the application of a config and its gateway, or hold those that run, until SIGINT or
    SIGTERM.

    Call it from the main thread: signals end it. What was started is taken down at the end
    unless another process still holds it.

    Args:
        config, overrides: as for `collect`; `sampling` and the limits in `collect` are those of
            `/run`.
        report: told what happens, a line at a time.

    Raises:
        ConfigError, GymRayError: it could not start.
    """
    checked = with_agents(load_config(config, overrides))
    for name, idle in idle_tools(checked).items():
        report(f"environments.{name} has tools {idle}")
    # Before anything starts: a mistake is told at once.
    load_environments(checked)
    check_application(checked, listens=True)
    directory = None
    if checked.serve.output is not None:
        directory = RunDirectory.open(checked, kind="serve")
        directory.save_config(checked)
    path = log_of_command("serve") if directory is None else directory.log
    with LogFile(path) as log:

        def say(line: str) -> None:
            report(line)
            log.write(line)

        try:
            _serve(checked, directory, say)
        finally:
            if directory is not None:
                directory.close()


def _serve(
    checked: RunConfig, directory: RunDirectory | None, report: Callable[[str], None]
) -> None:
    stopping = threading.Event()

    def stop(number: int, frame: Any) -> None:
        stopping.set()

    def check() -> None:
        if stopping.is_set():
            raise Interrupted("stopped while starting up")

    cluster = connect(checked, report)
    try:
        # After Ray has installed its own.
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            # Before the application, which would start Serve without HTTP.
            start_http(checked.serve, report)
            application = Application.deploy(checked, report, check)
            try:
                target = None
                if directory is not None:
                    directory.record(checked, **application.facts())
                    target = RecordTarget.of(directory)
                gateway = GatewayApplication.deploy(checked, application, report, check, target)
                try:
                    _introduce(checked.serve, application, gateway, report)
                    while not stopping.wait(_CHECK_SECONDS):
                        pass
                finally:
                    report("taking down the gateway")
                    gateway.close()
            finally:
                application.close(report)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    finally:
        disconnect(cluster)


def _introduce(
    config: ServeConfig,
    application: Application,
    gateway: GatewayApplication,
    report: Callable[[str], None],
) -> None:
    """Say where it is and how to call it."""
    import ray

    variable = config.api_key_env
    asks = bool(variable and os.environ.get(variable))
    if not asks and not is_loopback(config.host):
        report(
            f"warning: {config.host} can be reached from other machines and no key is asked for; "
            + (f"set {variable} to one" if variable else "set serve.api_key_env")
        )
    header = f' -H "Authorization: Bearer ${variable}"' if asks else ""
    address = ray.get_runtime_context().gcs_address
    report(
        f"serving {application.policy.model} as {application.name}; a collection with the same "
        f"policy, environments and verification uses it: RAY_ADDRESS={address} gym-ray collect …"
    )
    report(f"OpenAI base URL: {gateway.base_url}/v1 (model: {application.policy.model})")
    report(
        f"whole rollouts: curl {gateway.base_url}/run{header} -H 'Content-Type: application/json' "
        "-d @task.json"
    )
    report(f"ready at {gateway.base_url}; Ctrl-C stops it")
