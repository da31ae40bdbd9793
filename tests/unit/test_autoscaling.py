"""How many replicas a load asks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from gym_ray.config.load import load_config
from gym_ray.serving import options
from gym_ray.serving.application import build
from gym_ray.serving.autoscaling import (
    KV_CACHE_USAGE,
    TURNS,
    Bounds,
    EngineUse,
    engine_uses,
    environment_load,
    policy_load,
    replicas_wanted,
)
from gym_ray.serving.options import draining

loads = st.floats(0, 2000, allow_subnormal=False)
replicas = st.integers(0, 1500)
bounds = st.tuples(st.integers(0, 50), st.integers(1, 1000)).map(
    lambda pair: Bounds(min(pair), max(pair))
)
amounts = st.floats(0, 500, allow_subnormal=False)
uses = st.builds(EngineUse, amounts, amounts, amounts, st.floats(0, 1))
ANY = Bounds(0, 10_000)


@given(loads, replicas, bounds)
def test_replicas_stay_within_bounds(load: float, now: int, within: Bounds) -> None:
    assert within.minimum <= replicas_wanted(load, now, within) <= within.maximum


@given(loads, loads, replicas, bounds)
def test_more_load_never_asks_for_fewer_replicas(
    load: float, other: float, now: int, within: Bounds
) -> None:
    low, high = sorted((load, other))
    assert replicas_wanted(low, now, within) <= replicas_wanted(high, now, within)


@given(loads, replicas, bounds)
def test_at_constant_load_one_step_settles_it(load: float, now: int, within: Bounds) -> None:
    settled = replicas_wanted(load, now, within)
    assert replicas_wanted(load, settled, within) == settled


@given(loads, replicas, st.floats(-0.04, 0.04))
def test_a_load_that_wavers_does_not_start_and_stop_replicas(
    load: float, now: int, wavering: float
) -> None:
    settled = replicas_wanted(load, now, ANY)
    higher = replicas_wanted(load * (1 + abs(wavering)), settled, ANY)
    # Back at the load it came from, what was started for the wavering stays.
    assert replicas_wanted(load, higher, ANY) == higher


@given(loads, replicas)
def test_load_fits_and_only_no_load_needs_no_replica(load: float, now: int) -> None:
    wanted = replicas_wanted(load, now, ANY)
    assert wanted >= load - 1e-5
    assert (wanted == 0) == (load == 0)


@given(st.lists(uses, min_size=1, max_size=8), amounts, amounts)
def test_a_policy_load_grows_with_turns_waiting_and_cache(
    all_uses: list[EngineUse], turns: float, waiting: float
) -> None:
    first, *rest = all_uses
    more = EngineUse(
        first.turns + turns,
        first.running,
        first.waiting + waiting,
        max(first.kv_cache_usage, 0.5),
    )
    assert policy_load([more, *rest], 200, 0.8) >= policy_load(all_uses, 200, 0.8)


def test_a_policy_scales_by_turns_or_by_cache_whichever_asks_for_more() -> None:
    assert policy_load([EngineUse(turns=500)], 200, 0.8) == 2.5
    # Few long turns: the cache is full with 40 of them, and 40 more wait for it.
    full = EngineUse(turns=80, running=40, waiting=40, kv_cache_usage=1.0)
    assert policy_load([full], 200, 0.8) == 2.5
    assert environment_load([100, 150], 100) == 2.5


def test_replicas_are_told_apart_and_one_without_an_engine_counts_its_turns() -> None:
    told = {TURNS: {"a": 5.0, "b": 7.0}, KV_CACHE_USAGE: {"a": 0.25}}
    assert engine_uses(told) == [EngineUse(5.0, kv_cache_usage=0.25), EngineUse(7.0)]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("EnvironmentAutoscaling", {"target": 10}),
        ("PolicyAutoscaling", {"target_turns": 10, "target_kv_cache": 0.8}),
    ],
)
def test_a_controller_that_has_no_gym_ray_decides_all_the_same(
    name: str, arguments: dict[str, float], tmp_path: Path
) -> None:
    path = f"gym_ray.serving.autoscaling:{name}"
    policy = AutoscalingPolicy(policy_function=path, policy_kwargs=arguments)
    (tmp_path / "policy").write_bytes(policy.get_serialized_policy_def() or b"")
    script = f"""
import pickle, sys, types
sys.modules["gym_ray"] = None
policy = pickle.load(open("policy", "rb"))(**{arguments})
told = {{"gym_ray_rollouts": {{"a": 25.0}}, "gym_ray_turns": {{"a": 25.0}}}}
context = types.SimpleNamespace(
    aggregated_metrics=told, target_num_replicas=1,
    capacity_adjusted_min_replicas=0, capacity_adjusted_max_replicas=8,
)
print(policy(context)[0])
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "3\n"


def test_a_draining_replica_has_the_time_its_rollouts_have() -> None:
    assert draining(3600)["graceful_shutdown_timeout_s"] > 3600
    # Commands that adopt the application may have longer ones.
    assert draining(1)["graceful_shutdown_timeout_s"] == 600


def test_ray_takes_the_options_of_every_deployment() -> None:
    config = load_config(
        {
            "policy": {"engine": "scripted", "autoscaling": {"min_replicas": 0, "max_replicas": 9}},
            "environments": {"math": {"autoscaling": {"max_replicas": 7}}},
            "collect": {"rollout_timeout_seconds": 7200},
        }
    )
    policy = options.policy_scaling(config.policy.autoscaling)["autoscaling_config"]
    environment = options.environment_scaling(config.environments["math"].autoscaling)

    assert AutoscalingConfig(**policy).policy.policy_kwargs == {
        "target_turns": 200.0,
        "target_kv_cache": 0.8,
    }
    assert AutoscalingConfig(**environment["autoscaling_config"]).max_replicas == 7
    assert options.scaling(config.serve.autoscaling) == {"num_replicas": 1}
    build(config)
