"""Every file of deployments/ builds, and asks the cluster for what its comments say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from gym_ray.config.load import load_config
from gym_ray.errors import ConfigError
from gym_ray.serving import SERVE_ENVIRONMENT
from gym_ray.serving.application import build
from gym_ray.serving.declared import application

FOLDER = Path(__file__).parents[2] / "deployments"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "serve.yaml")


@dataclass(frozen=True)
class Asked:
    """What one deployment asks Serve and the cluster for."""

    replicas: tuple[int, int]
    cpus: float
    gpus: float
    bundles: list[dict[str, float]] | None
    strategy: str | None
    target: float | None


def asked(graph: Any) -> dict[str, Asked]:
    """Per deployment of a bound graph, by name, as Serve itself reads it."""
    from ray.serve._private.build_app import build_app

    found = {}
    for deployment in build_app(graph, name="test").deployments:
        config, replica = deployment._deployment_config, deployment._replica_config
        scaling = config.autoscaling_config
        found[deployment.name] = Asked(
            (scaling.min_replicas, scaling.max_replicas)
            if scaling is not None
            else (config.num_replicas, config.num_replicas),
            replica.ray_actor_options.get("num_cpus", 0),
            replica.ray_actor_options.get("num_gpus", 0),
            replica.placement_group_bundles,
            replica.placement_group_strategy,
            None if scaling is None else scaling.target_ongoing_requests,
        )
    return found


def asked_by(name: str) -> dict[str, Asked]:
    return asked(build(load_config(FOLDER / name)))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds_and_says_how_to_run_it(name: str) -> None:
    config = load_config(FOLDER / name)
    text = (FOLDER / name).read_text()

    deployments = asked(build(config))

    assert set(deployments) == {
        "policy",
        "controller",
        *(f"environment-{environment}" for environment in config.environments),
    }
    assert text.startswith("#")
    assert f"deployments/{name}" in text
    assert config.collect.output.endswith(f"runs/{name.removesuffix('.yaml')}")


def test_laptop_asks_for_no_gpu() -> None:
    assert {deployment.gpus for deployment in asked_by("laptop-cpu.yaml").values()} == {0}


def test_single_gpu_asks_for_one() -> None:
    deployments = asked_by("single-gpu.yaml")

    assert sum(deployment.gpus for deployment in deployments.values()) == 1
    assert deployments["policy"].replicas == (1, 1)


def test_node_of_eight_gpus_is_filled_by_replicas_on_several_each() -> None:
    policy = asked_by("node-8gpu.yaml")["policy"]

    assert policy.gpus > 1
    assert policy.replicas[0] == policy.replicas[1] > 1
    assert policy.gpus * policy.replicas[1] == 8
    assert policy.bundles is None


def test_autoscaled_cluster_releases_every_replica_and_has_room_for_what_is_in_flight() -> None:
    config = load_config(FOLDER / "cluster-autoscale.yaml")
    deployments = asked(build(config))
    policy, environment = deployments["policy"], deployments["environment-math"]

    assert policy.replicas == (0, 16)
    assert environment.replicas == (0, 32)
    assert (policy.target, environment.target) == (192, 128)
    assert 16 * 192 == config.collect.max_in_flight <= 32 * 128


def test_model_of_two_nodes_asks_for_a_bundle_per_gpu_packed() -> None:
    config = load_config(FOLDER / "multi-node-model.yaml")
    policy = asked(build(config))["policy"]
    arguments = config.policy.engine_args

    assert policy.bundles is not None
    assert [bundle["GPU"] for bundle in policy.bundles] == [1] * 16
    assert arguments["tensor_parallel_size"] * arguments["pipeline_parallel_size"] == 16
    assert policy.strategy == "PACK"
    # The replica itself has the first bundle's CPUs, and leaves its GPU to vLLM's worker.
    assert (policy.cpus, policy.gpus) == (policy.bundles[0]["CPU"], 0)


def test_policy_elsewhere_asks_for_no_gpu() -> None:
    assert {deployment.gpus for deployment in asked_by("external-policy.yaml").values()} == {0}


def test_bundle_of_many_gpus_is_refused_with_what_to_write_instead() -> None:
    policy = {"engine": "vllm", "resources": {"bundles": [{"GPU": 8}, {"GPU": 8}]}}

    with pytest.raises(ConfigError, match=r"policy\.resources\.bundles.*write 8 bundles of {GPU"):
        load_config({"policy": policy, "environments": {"math": {}}})


def serve_file() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((FOLDER / "serve.yaml").read_text())
    return tree


def test_serve_file_is_what_serve_deploy_takes() -> None:
    (declared,) = ServeDeploySchema.model_validate(serve_file()).applications

    assert declared.import_path == f"{application.__module__}:{application.__name__}"
    assert not declared.name.startswith("gym-ray-")
    assert declared.runtime_env["env_vars"] == SERVE_ENVIRONMENT
    assert serve_file()["controller_options"]["runtime_env"]["env_vars"] == SERVE_ENVIRONMENT


def test_serve_file_builds_one_application_with_the_gateway_in_it() -> None:
    (declared,) = serve_file()["applications"]

    deployments = asked(application(declared["args"]))

    assert set(deployments) == {"gateway", "batches", "controller", "policy", "environment-math"}
    assert deployments["policy"].gpus == 1
    assert deployments["policy"].replicas == (1, 4)


def test_declared_application_that_should_record_is_refused() -> None:
    config = {"policy": {"engine": "scripted"}, "environments": {"math": {}}}

    with pytest.raises(ConfigError, match=r"serve\.output: a declared application records nothing"):
        application({"config": config, "overrides": ["serve.output=/tmp/rollouts"]})
