"""The weights of an application that runs, from a process beside it: `gym-ray weights`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gym_ray.config.load import RunConfig, load_config
from gym_ray.errors import ConfigError, GymRayError
from gym_ray.policies.weights import RefusedUpdate, WeightsReport, WeightsUpdate
from gym_ray.serving.application import CONTROLLER_DEPLOYMENT, application_name, ask
from gym_ray.serving.cluster import connect, disconnect

_ASK_SECONDS = 120.0


def weights(
    config: RunConfig | Mapping[str, Any] | str | Path, overrides: Sequence[str] = ()
) -> WeightsReport:
    """What every policy replica of a running application has.

    Args:
        config, overrides: those the application was started with, by `collect` or `serve`.

    Raises:
        ConfigError: no such application runs on the cluster (`RAY_ADDRESS`).
    """
    report: WeightsReport = _ask(load_config(config, overrides), "weights", _ASK_SECONDS)
    return report


def update_weights(
    config: RunConfig | Mapping[str, Any] | str | Path,
    update: WeightsUpdate,
    overrides: Sequence[str] = (),
) -> WeightsReport:
    """Replace the weights on every policy replica of a running application.

    Args:
        config, overrides: those the application was started with, by `collect` or `serve`.
        update: which weights.

    Returns:
        What every replica has now.

    Raises:
        ConfigError: no such application runs, or the update cannot be; nothing has changed.
        GymRayError: some replica could not take the weights; those that can have them.
    """
    checked = load_config(config, overrides)
    # Checking, loading, and asking what was loaded.
    outcome = _ask(checked, "update_weights", 2 * update.timeout_seconds + _ASK_SECONDS, update)
    if isinstance(outcome, RefusedUpdate):
        raise ConfigError(outcome.message)
    if isinstance(outcome, GymRayError):
        raise outcome
    report: WeightsReport = outcome
    if report.failed:
        raise GymRayError(
            f"{len(report.failed)} of {len(report.replicas)} replicas could not take the weights: "
            + "; ".join(f"{failed.replica}: {failed.error}" for failed in report.failed)
        )
    return report


def render(report: WeightsReport) -> str:
    """For a terminal."""
    lines = [f"version {report.version}" + (f" of {report.origin}" if report.origin else "")]
    lines += [
        f"  {replica.replica}: version {replica.version}"
        + (f", loaded {replica.loaded} in {replica.seconds:.2f} s" if replica.loaded else "")
        for replica in report.replicas
    ]
    if report.starting:
        lines.append(f"  {report.starting} more on their way up")
    return "\n".join(lines)


def _ask(config: RunConfig, method: str, seconds: float, *arguments: Any) -> Any:
    cluster = connect(config)
    try:
        from ray import serve

        name = application_name(config)
        if cluster.started or name not in serve.status().applications:
            raise ConfigError(
                f"application {name} of this config does not run here; set RAY_ADDRESS to the "
                "cluster it runs on, and give the config and overrides it was started with"
            )
        return ask(CONTROLLER_DEPLOYMENT, name, method, seconds, lambda: None, *arguments)
    finally:
        disconnect(cluster)
