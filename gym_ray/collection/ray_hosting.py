"""A collection's parts on Ray: an application of Ray Serve, and stages that Ray Data places."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gym_ray.collection.driver_pass import DriverPass, logs_into
from gym_ray.collection.hosting import RunningPass
from gym_ray.collection.manifest import Manifest
from gym_ray.collection.pipeline import Pass, rollout_stages
from gym_ray.collection.remaining import Positions
from gym_ray.collection.stage import StageSettings
from gym_ray.collection.stop import StopSignal
from gym_ray.config.load import RunConfig
from gym_ray.serving.application import ENVIRONMENT_DEPLOYMENT, Application
from gym_ray.serving.cluster import connect, disconnect, stages_wanted
from gym_ray.serving.http import start_http

Say = Callable[[str], None]


class RayHosting:
    """See `Hosting`: the application of a config, adopted or started.

    Args:
        config: of the run.
        log: file that takes what a stage in this process logs.
        say: told, in one line each, what is being waited for.
        stop: asked while waiting.
    """

    application: str | None = None

    def __init__(self, config: RunConfig, log: Path, say: Say, stop: StopSignal) -> None:
        self._config = config
        self._log = log
        self._say = say
        self._stop = stop
        self._up = contextlib.ExitStack()
        self._application: Application | None = None
        self._is_logging = False

    def begin(self) -> None:
        """See `Hosting`: nothing can."""

    def start(self) -> None:
        """See `Hosting`."""
        cluster = connect(self._config, self._say)
        self._up.callback(disconnect, cluster)
        self._stop.take_over()
        if _needs_gateway(self._config):
            # Before the application, which would start Serve without HTTP.
            start_http(self._config.serve, self._say)
        application = Application.deploy(self._config, self._say, self._stop.raise_if_requested)
        self._up.callback(application.close, self._say)
        self._application, self.application = application, application.name

    def close(self) -> None:
        """See `Hosting`."""
        self._up.close()

    def facts(self) -> dict[str, Any]:
        """See `Hosting`."""
        assert self._application is not None
        return self._application.facts()

    @contextlib.contextmanager
    def gateway(self) -> Iterator[str | None]:
        """See `Hosting`."""
        if not _needs_gateway(self._config):
            yield None
            return
        from gym_ray.serving.gateway_application import GatewayApplication

        assert self._application is not None
        gateway = GatewayApplication.deploy(
            self._config, self._application, self._say, self._stop.raise_if_requested
        )
        try:
            yield gateway.base_url
        finally:
            gateway.close()

    def start_pass(
        self, manifest: Manifest, left: Positions, settings: StageSettings
    ) -> RunningPass:
        """See `Hosting`."""
        assert self._application is not None
        handle_of = ServeHandles(self._application.name)
        settings = dataclasses.replace(settings, handle_of=handle_of)
        if stages_wanted(self._config) > 1:
            return Pass(rollout_stages(manifest, left, settings))
        if not self._is_logging:
            self._is_logging = True
            self._up.callback(logs_into(self._log, settings.log_format))
        started = DriverPass(manifest, left, settings)
        self._up.callback(started.close)
        return started


@dataclasses.dataclass(frozen=True, slots=True)
class ServeHandles:
    """How a stage reaches the environments of an application, on whichever node it is."""

    application: str

    def __call__(self, environment: str) -> Any:
        from ray import serve

        deployment = ENVIRONMENT_DEPLOYMENT.format(name=environment)
        return serve.get_deployment_handle(deployment, self.application)


def _needs_gateway(config: RunConfig) -> bool:
    return any(section.agent == "external" for section in config.environments.values())
