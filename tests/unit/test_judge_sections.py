"""Sections of judges: what they change of an application, and what a resumed run may change."""

from typing import Any

import pytest

from gym_ray.config.changes import differing_keys
from gym_ray.config.load import RunConfig, load_config
from gym_ray.errors import ConfigError
from gym_ray.serving.application import application_name
from gym_ray.serving.cluster import _cpus_wanted, _gpus_wanted
from gym_ray.serving.engines import build_engine
from gym_ray.serving.judges import config_of_judge
from gym_ray.serving.policy_renderer import load_policy_renderer, takes_messages_only

HOSTED = {
    "engine": "openai",
    "model": "large",
    "engine_args": {"base_urls": ["http://here:1/v1"], "api": "chat"},
}


def config_of(**judges: dict[str, Any]) -> RunConfig:
    return load_config(
        {
            "policy": {"engine": "scripted", "resources": {"num_gpus": 1, "num_cpus": 2}},
            "judges": judges,
            "environments": {"math": {}},
        }
    )


def test_judges_are_part_of_what_is_served() -> None:
    names = {
        application_name(config)
        for config in (
            config_of(),
            config_of(grader=HOSTED),
            config_of(other=HOSTED),
            config_of(grader={**HOSTED, "requests_per_minute": 5}),
        )
    }
    assert len(names) == 4
    assert application_name(config_of(grader=HOSTED)) in names


def test_judges_claim_their_share_of_the_cluster() -> None:
    alone = config_of()
    judged = config_of(
        grader={
            "resources": {"num_gpus": 2, "num_cpus": 3},
            "autoscaling": {"min_replicas": 2, "max_replicas": 2},
        }
    )

    assert _gpus_wanted(judged) - _gpus_wanted(alone) == 4
    assert _cpus_wanted(judged) - _cpus_wanted(alone) == 6


def test_a_judge_is_deployed_as_a_policy_of_its_own() -> None:
    config = config_of(grader=HOSTED, local={"engine": "scripted"})

    assert takes_messages_only(config_of_judge(config, "grader"))
    assert load_policy_renderer(config_of_judge(config, "grader")) is None
    assert load_policy_renderer(config_of_judge(config, "local")) is not None
    assert type(build_engine(config_of_judge(config, "local"))).__name__ == "ScriptedEngine"
    assert config_of_judge(config, "local").sampling.temperature == 0


def test_a_resumed_run_may_change_how_fast_judges_are_asked_and_not_who_they_are() -> None:
    before = config_of(grader=HOSTED).to_tree()
    faster = {
        **HOSTED,
        "max_concurrency": 5,
        "requests_per_minute": 7,
        "max_retries": 1,
        "request_timeout_seconds": 5,
        "resources": {"num_cpus": 3},
    }

    assert differing_keys(before, config_of(grader=faster).to_tree()) == []
    other = config_of(grader={**HOSTED, "model": "small"}).to_tree()
    assert differing_keys(before, other) == ["judges.grader.model: 'large' -> 'small'"]


def test_a_wrong_key_of_a_judge_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"judges\.grader\.request_per_minute.*did you mean"):
        config_of(grader={**HOSTED, "request_per_minute": 5})
