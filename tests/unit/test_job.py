"""What a Ray job is told, and what a driver inside one minds."""

import json
from pathlib import Path
from typing import Any

import pytest

from gym_ray.config.load import RunConfig, load_config
from gym_ray.errors import ConfigError
from gym_ray.serving.job import (
    folder_on_every_node,
    job_variables,
    metadata,
    require_kept_output,
    runtime_environment,
)

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def config_in(folder: Path, **sections: Any) -> RunConfig:
    tree = {
        "policy": {"engine": "scripted"},
        "environments": {"math": {}},
        "collect": {"output": "/shared/runs/x"},
        **sections,
    }
    path = folder / "deployments" / "x.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(tree))
    return load_config(path)


def inside_job(monkeypatch: pytest.MonkeyPatch, **runtime_env: Any) -> None:
    monkeypatch.setenv(JOB, json.dumps({"runtime_env": runtime_env, "metadata": {}}))


def test_credentials_go_along_by_name_and_files_of_this_machine_do_not(tmp_path: Path) -> None:
    here = {
        "HF_TOKEN": "hub", "AWS_ACCESS_KEY_ID": "id", "AWS_PROFILE": "me",
        "AWS_SHARED_CREDENTIALS_FILE": "/home/me/.aws", "HOME": "/home/me", "MINE": "1",
        "GYM_RAY_JOB_VARIABLES": "MINE",
    }  # fmt: skip

    passed = runtime_environment(config_in(tmp_path), tmp_path, here)["env_vars"]

    assert set(passed) == {"HF_TOKEN", "AWS_ACCESS_KEY_ID", "MINE", "RAY_JOB_STOP_WAIT_TIME_S"}


def test_variables_the_config_reads_go_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"MY_MODEL": "m", "HOST_KEY": "k"}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    policy = {
        "engine": "openai", "model": "${oc.env:MY_MODEL}",
        "engine_args": {"base_urls": ["http://h/v1"], "api_key_env": "HOST_KEY"},
    }  # fmt: skip

    passed = runtime_environment(config_in(tmp_path, policy=policy), tmp_path, here)["env_vars"]

    assert here.items() <= passed.items()


def test_stopping_a_job_leaves_time_for_the_drain(tmp_path: Path) -> None:
    config = config_in(tmp_path, collect={"output": "/x", "drain_timeout_seconds": 300})

    passed = runtime_environment(config, tmp_path, {})["env_vars"]

    assert int(passed["RAY_JOB_STOP_WAIT_TIME_S"]) > 300


def test_metadata_say_where_the_dataset_will_be(tmp_path: Path) -> None:
    said = metadata("deployments/x.yaml", config_in(tmp_path))

    assert said["gym_ray_output"] == "/shared/runs/x"
    assert said["gym_ray_summary"] == "/shared/runs/x/summary.json"


def test_what_would_not_travel_is_refused(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "elsewhere.py").write_text("")
    outside = {"math": {"entrypoint": f"{tmp_path}/elsewhere:Mine"}}

    with pytest.raises(ConfigError, match=r"environments\.math\.entrypoint .* is outside of"):
        runtime_environment(config_in(project, environments=outside), project, {})
    with pytest.raises(ConfigError, match=r"the config is in .*, outside of"):
        runtime_environment(config_in(tmp_path), project, {})
    with pytest.raises(ConfigError, match=r"collect\.output 'runs/x' is relative"):
        runtime_environment(config_in(project, collect={"output": "runs/x"}), project, {})
    with pytest.raises(ConfigError, match="GYM_RAY_JOB_VARIABLES names MINE, which is not set"):
        runtime_environment(config_in(project), project, {"GYM_RAY_JOB_VARIABLES": "MINE"})


def test_outside_of_a_job_nothing_is_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(JOB, raising=False)

    require_kept_output("collect.output", "runs/x")
    assert folder_on_every_node(str(tmp_path)) == str(tmp_path)
    assert job_variables() == frozenset()


def test_inside_a_job_relative_outputs_are_refused_and_buckets_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside_job(monkeypatch, working_dir="gcs://package.zip")

    with pytest.raises(ConfigError, match="--output 'runs/x' is relative"):
        require_kept_output("--output", "runs/x")
    require_kept_output("--output", "/shared/runs/x")
    require_kept_output("--output", "s3://bucket/runs/x")


def test_inside_a_job_folders_of_it_are_named_as_every_node_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside_job(monkeypatch, working_dir="gcs://package.zip", env_vars={"HF_TOKEN": "t"})
    monkeypatch.chdir(tmp_path)

    assert folder_on_every_node(str(tmp_path / "deployments")) == "deployments"
    assert folder_on_every_node("/shared/environments") == "/shared/environments"
    assert job_variables() == {"HF_TOKEN"}
