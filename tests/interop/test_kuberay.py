"""The KubeRay manifests against KubeRay's own custom resource definitions."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from gym_ray.config.load import load_config
from gym_ray.serving import SERVE_ENVIRONMENT

ROOT = Path(__file__).parents[2]
DEFINITIONS = ROOT.parent / "shared" / "data" / "kuberay"
MANIFESTS = ROOT / "deployments" / "kuberay"


def strict(schema: Any) -> Any:
    """An OpenAPI v3 schema of a definition as JSON Schema, without fields it does not name.

    Kubernetes drops unknown fields without a word, so a misspelt one must fail here.
    """
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    translated = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        translated.setdefault("additionalProperties", False)
    return translated


@functools.cache
def validator(plural: str) -> Draft202012Validator:
    text = (DEFINITIONS / f"ray.io_{plural}.yaml").read_text()
    # Megabytes of YAML, for which the loader written in Python takes half a minute.
    definition = yaml.load(text, Loader=yaml.CSafeLoader)
    (version,) = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    # Kubernetes' own; a definition leaves it open.
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(schema)


def manifest(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text())
    return tree


@pytest.mark.parametrize("name", ["rayjob", "rayservice"])
def test_manifest_is_what_the_definition_allows(name: str) -> None:
    problems = [
        f"{error.json_path}: {error.message}"
        for error in validator(f"{name}s").iter_errors(manifest(name))
    ]
    assert problems == []


def test_a_misspelt_field_would_be_found() -> None:
    tree = manifest("rayjob")
    tree["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 3

    assert not validator("rayjobs").is_valid(tree)


def test_job_has_room_for_what_its_config_may_ask_for() -> None:
    tree = manifest("rayjob")["spec"]
    _, _, _, command, config_file, *overrides = tree["entrypoint"].split()
    config = load_config(ROOT / "deployments" / Path(config_file).name, overrides)
    assert command == "collect"
    groups = {group["groupName"]: group for group in tree["rayClusterSpec"]["workerGroupSpecs"]}

    assert groups["gpu"]["maxReplicas"] == config.policy.autoscaling.max_replicas
    assert groups["gpu"]["minReplicas"] == config.policy.autoscaling.min_replicas
    environment = config.environments["math"]
    cpus = 8 * groups["cpu"]["maxReplicas"]
    assert environment.autoscaling.max_replicas * environment.resources.num_cpus <= cpus
    assert config.collect.output == tree["metadata"]["gym_ray_output"]


def test_service_serves_what_the_serve_file_says() -> None:
    tree = manifest("rayservice")["spec"]
    served = yaml.safe_load(tree["serveConfigV2"])

    assert served == yaml.safe_load((ROOT / "deployments" / "serve.yaml").read_text())
    assert served["applications"][0]["runtime_env"]["env_vars"] == SERVE_ENVIRONMENT


def test_every_pod_runs_an_image_of_the_dockerfile_as_its_user() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    for name, key in (("rayjob", "rayClusterSpec"), ("rayservice", "rayClusterConfig")):
        cluster = manifest(name)["spec"][key]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            target = pod["containers"][0]["image"].rpartition("-")[2]
            assert f" AS {target}\n" in dockerfile
            assert f"--uid {pod['securityContext']['runAsUser']}" in dockerfile


def test_the_kustomization_names_every_image_and_makes_the_volume_that_is_mounted() -> None:
    tree = manifest("kustomization")
    renamed = {image["name"] for image in tree["images"]}
    assert all((MANIFESTS / name).exists() for name in tree["resources"])
    claim = manifest("storage")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name, key in (("rayjob", "rayClusterSpec"), ("rayservice", "rayClusterConfig")):
        cluster = manifest(name)["spec"][key]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            images = {container["image"].partition(":")[0] for container in pod["containers"]}
            assert images <= renamed
            claims = {
                volume["persistentVolumeClaim"]["claimName"]
                for volume in pod["volumes"]
                if "persistentVolumeClaim" in volume
            }
            assert claims == {claim["metadata"]["name"]}
