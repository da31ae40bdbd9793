"""Where a collection runs when nobody says so, and what is refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from gym_ray.collection.cluster_choice import cluster_of, introduction
from gym_ray.config.load import RunConfig, load_config
from gym_ray.errors import ConfigError

SCRIPTED = {"engine": "scripted", "model": "m"}
JUDGES = {"grader": SCRIPTED}


def config(**sections: Any) -> RunConfig:
    tree: dict[str, Any] = {"policy": dict(SCRIPTED), "environments": {"math": {}}}
    return load_config({**tree, **sections})


NEEDS_RAY = [
    ({"judges": JUDGES}, "judges need Ray"),
    (
        {"policy": {**SCRIPTED, "autoscaling": {"max_replicas": 2}}},
        "policy.autoscaling.max_replicas is 2",
    ),
    (
        {"environments": {"math": {"autoscaling": {"min_replicas": 3, "max_replicas": 3}}}},
        "environments.math.autoscaling.max_replicas is 3",
    ),
    (
        {"policy": {**SCRIPTED, "resources": {"bundles": [{"GPU": 1}, {"GPU": 1}]}}},
        "policy.resources.bundles needs Ray",
    ),
    ({"environments": {"math": {"agent": "external"}}}, "environments.math.agent external"),
]


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)


def test_one_replica_of_everything_needs_no_ray() -> None:
    assert cluster_of(config()) == "local"
    assert "(cluster: local; one replica of everything suffices)" in introduction(config())


def test_a_cluster_that_is_named_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")

    assert cluster_of(config()) == "ray"
    assert introduction(config()) == "collecting on Ray (cluster: ray; RAY_ADDRESS is set)"
    assert cluster_of(config(cluster="local")) == "local"


def test_the_config_decides() -> None:
    assert cluster_of(config(cluster="ray")) == "ray"
    assert introduction(config(cluster="ray")).endswith("(cluster: ray; as the config says)")


@pytest.mark.parametrize(("sections", "reason"), NEEDS_RAY)
def test_what_takes_ray_is_on_ray_and_says_why(sections: dict[str, Any], reason: str) -> None:
    assert cluster_of(config(**sections)) == "ray"
    assert reason in introduction(config(**sections))
    with pytest.raises(ConfigError, match="cluster is local, and ") as refused:
        cluster_of(config(cluster="local", **sections))
    assert reason in str(refused.value)


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="cluster"):
        config(cluster="cloud")
