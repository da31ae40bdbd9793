"""Finding or starting Ray, and seeing whether it can hold what a config asks for."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from gym_ray.config.environment import EnvironmentConfig
from gym_ray.config.load import RunConfig
from gym_ray.config.policy import PolicyConfig
from gym_ray.errors import ConfigError, GymRayError, one_line
from gym_ray.serving import SERVE_ENVIRONMENT
from gym_ray.serving.job import job_variables
from gym_ray.serving.last_words import LastWords
from gym_ray.telemetry.traces import VARIABLES

NAMESPACE = "gym-ray"

#: Tries to start Ray on this machine.
_STARTS = 3

#: Logical CPUs of one rollout stage: it waits more than it works.
STAGE_CPUS = 0.5

#: Rollouts one stage actor drives; its event loop is far from full at that.
ROLLOUTS_PER_STAGE = 1024


Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """The Ray cluster in use.

    Attributes:
        started: True when this process started it, and stops it.
        last_words: of one that this process started, and with which it may end.
    """

    started: bool
    last_words: LastWords | None = None


def connect(config: RunConfig, report: Report = lambda text: None) -> Cluster:
    """Join the cluster `RAY_ADDRESS` names (as inside `ray job submit`), else start one here.

    Args:
        config: what has to fit.
        report: is told which of the two is waited for.

    Raises:
        ConfigError: GPUs asked for on a machine of our own that has none, or too few.
    """
    # A line of Ray's C++ about actor restarts would look like a failure of ours.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    _quieten()
    from ray.serve.context import _set_global_client

    if ray.is_initialized():
        return Cluster(started=False)
    # To Serve a client of an earlier cluster of this process looks current: it compares job IDs,
    # which begin anew in every cluster (Ray 2.60).
    _set_global_client(None)
    # Ray refuses a variable that the job this driver runs in sets as well; the job's stands.
    given = job_variables()
    environment = {
        name: value
        for name, value in {**SERVE_ENVIRONMENT, **_passed_on()}.items()
        if name not in given
    }
    common: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": bool(os.environ.get("GYM_RAY_WORKER_LOGS")),
        "logging_level": "error",
        "runtime_env": {"env_vars": environment},
    }
    if address := os.environ.get("RAY_ADDRESS"):
        report(f"joining the Ray cluster at {address}")
        try:
            with _without_native_noise():
                ray.init(**common)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise GymRayError(
                f"no Ray cluster answers at RAY_ADDRESS={address}: "
                f"{one_line(error)}; unset it to start Ray on this machine"
            ) from error
        return Cluster(started=False)
    report("starting Ray on this machine")
    # A small machine starts a dozen light workers at once; Ray's warning about it is moot.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "16")
    _start(
        address="local",
        num_cpus=max(os.cpu_count() or 1, math.ceil(_cpus_wanted(config))),
        include_dashboard=False,
        **common,
    )
    try:
        require_gpus(config, ray.cluster_resources().get("GPU", 0))
    except ConfigError:
        ray.shutdown()
        raise
    return Cluster(started=True, last_words=LastWords())


def _start(**options: Any) -> None:
    """Start Ray on this machine; again where a busy one missed a deadline of Ray's own, which
    gives its helper processes 15 seconds to come up.

    Raises:
        GymRayError: it does not start.
    """
    import ray

    for left in reversed(range(_STARTS)):
        try:
            with _without_native_noise():
                ray.init(**options)
            return
        except Exception as error:
            ray.shutdown()
            if left == 0 or "timed out during startup" not in str(error):
                raise GymRayError(
                    f"Ray does not start on this machine: {one_line(error)}; its logs are in "
                    f"{os.environ.get('RAY_TMPDIR', '/tmp')}/ray/session_latest/logs"
                ) from error


@contextlib.contextmanager
def _without_native_noise() -> Iterator[None]:
    """While inside, what C++ writes to standard error is not seen; what Python writes there is.

    Ray's C++ says at its start that its log level was set.
    """
    try:
        is_usual = sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):  # A notebook's, or none at all.
        is_usual = False
    if not is_usual:
        yield
        return
    usual = sys.stderr
    seen = os.dup(2)
    with open(seen, "w", buffering=1, closefd=False) as stream, open(os.devnull, "wb") as nowhere:
        try:
            sys.stderr = stream
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(seen, 2)
            sys.stderr = usual
    os.close(seen)


def disconnect(cluster: Cluster) -> None:
    """Stop a cluster that `connect` started; leave a joined one alone."""
    import ray

    if cluster.started:
        ray.shutdown()
    if cluster.last_words is not None:
        cluster.last_words.unsaid()


def on_driver_node() -> dict[str, Any]:
    """Options of an actor that needs next to nothing and lives as long as this driver.

    Ray would put it on any node, which could then not be released, and with which it could be lost.
    Actors that ask for nothing at all go to one at random, whatever their affinity (Ray 2.60).
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    affinity = NodeAffinitySchedulingStrategy(node_id=node, soft=True)
    return {"num_cpus": 0, "memory": 1, "scheduling_strategy": affinity}


def preferring_driver_node() -> dict[str, Any]:
    """Options of a Ray Data operator whose actors live as long as this driver: on its node as far
    as that has room, which is there to the end anyway.
    """
    import ray

    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return {"label_selector": here, "fallback_strategy": [{"label_selector": {}}]}


def unmet_demand(config: RunConfig) -> str | None:
    """What the cluster lacks for the smallest form of the application, for a person to read."""
    import ray

    have = ray.cluster_resources()
    lacking = [
        f"{wanted:g} {kind} (the cluster has {have.get(kind, 0):g})"
        for kind, wanted in (("CPU", _cpus_wanted(config)), ("GPU", _gpus_wanted(config)))
        if wanted > have.get(kind, 0)
    ]
    return ", ".join(lacking) or None


def _quieten() -> None:
    """Progress and errors reach the user through us; Ray's own lines would only bury them.

    Serve's logger is set up anew when Serve starts, hence a filter rather than a level.
    """
    import ray.data
    import ray.serve  # noqa: F401  (importing it sets up the logger that is filtered here)

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    logging.getLogger("ray.serve").addFilter(lambda record: record.levelno >= logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"ray\..*")


def _passed_on() -> dict[str, str]:
    """Variables of the driver that workers need to find models and modules the same way."""
    names = (
        "GYM_RAY_CACHE",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "VLLM_CPU_KVCACHE_SPACE",
        "PYTHONPATH",
        *VARIABLES,
    )
    return {name: os.environ[name] for name in names if name in os.environ}


def starts_here() -> bool:
    """Whether `connect` would start a cluster, on this machine."""
    ray = sys.modules.get("ray")
    return not os.environ.get("RAY_ADDRESS") and not (ray is not None and ray.is_initialized())


def require_gpus(config: RunConfig, have: float) -> None:
    """Refuse a config that asks for more GPUs than there are.

    Args:
        config: what has to fit.
        have: GPUs of this machine.

    Raises:
        ConfigError: says what to set.
    """
    wanted = _gpus_wanted(config)
    if wanted > have:
        also = " (judges.NAME.resources included)" if config.judges else ""
        raise ConfigError(
            f"policy.resources asks for {wanted:g} GPU(s){also} and this machine has {have:g}. "
            "Set policy.resources.num_gpus=0 to use vLLM's CPU build, or set RAY_ADDRESS to "
            "join a cluster that has GPUs"
        )


def _gpus_wanted(config: RunConfig) -> float:
    return sum(
        policy.resources.total("GPU") * max(1, policy.autoscaling.min_replicas)
        for policy in policies_of(config)
    )


def _cpus_wanted(config: RunConfig) -> float:
    sections: list[PolicyConfig | EnvironmentConfig] = [
        *policies_of(config),
        *config.environments.values(),
    ]
    total = sum(
        section.resources.total("CPU") * max(1, section.autoscaling.min_replicas)
        for section in sections
    )
    stages = stages_wanted(config)
    return total + (STAGE_CPUS * stages if stages > 1 else 0)  # A single one is in the command.


def policies_of(config: RunConfig) -> list[PolicyConfig]:
    """The policy and the judges: everything that is deployed as a policy."""
    return [config.policy, *config.judges.values()]


def stages_wanted(config: RunConfig) -> int:
    """Stage actors a collection at full size has."""
    return math.ceil(config.collect.max_in_flight / ROLLOUTS_PER_STAGE)
