"""Log lines, the shares that are traced, and what nobody pays for who does not want it."""

import io
import json
import logging
import subprocess
import sys

import pytest

from gym_ray.errors import ConfigError
from gym_ray.policies.engine import EngineLoad
from gym_ray.policies.vllm_load import VllmLoads
from gym_ray.telemetry.logs import JsonFormatter, set_up_logs
from gym_ray.telemetry.traces import VARIABLES, is_traced, require_traces


def test_a_json_line_holds_the_message_and_what_was_passed_beside_it() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("test_observers")
    logger.addHandler(handler)

    logger.warning("rollout %s failed", "r1", extra={"rollout_id": "r1", "attempts": 2})
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        logger.exception("again")

    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "WARNING", "logger": "test_observers", "message": "rollout r1 failed",
        "rollout_id": "r1", "attempts": 2,
    }  # fmt: skip
    assert second["exception"].endswith("ValueError: one\ntwo")


def test_setting_logs_up_twice_changes_the_format_and_doubles_no_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = logging.getLogger("gym_ray")
    monkeypatch.setattr(own, "handlers", [])
    monkeypatch.setattr(own, "propagate", True)
    monkeypatch.setattr(own, "level", own.level)

    set_up_logs("text")
    set_up_logs("json")

    (handler,) = own.handlers
    assert isinstance(handler.formatter, JsonFormatter)


def test_the_traced_share_is_kept_and_always_the_same() -> None:
    rollouts = [f"{number:032x}" for number in range(4000)]

    for share in (0.0, 0.1, 0.5, 1.0):
        traced = [rollout for rollout in rollouts if is_traced(rollout, share)]
        assert len(traced) / len(rollouts) == pytest.approx(share, abs=0.02)
        assert traced == [rollout for rollout in rollouts if is_traced(rollout, share)]


def test_tracing_without_the_libraries_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    require_traces(0)
    with pytest.raises(ConfigError, match=r"pip install 'gym-ray\[otel\]'"):
        require_traces(0.1)


def test_without_traces_and_trackers_none_of_their_libraries_is_imported() -> None:
    code = (
        "import sys, gym_ray.collection.collector, gym_ray.collection.stage\n"
        "print([m for m in ('opentelemetry', 'wandb', 'mlflow', 'tensorboardX', 'ray') "
        "if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def test_variables_that_hold_keys_are_not_passed_to_workers() -> None:
    assert [name for name in VARIABLES if "HEADERS" in name or "KEY" in name] == []


def test_the_load_of_an_engine_is_that_of_all_its_cores() -> None:
    class Stats:
        num_running_reqs, num_waiting_reqs, num_skipped_waiting_reqs = 3, 2, 1
        kv_cache_usage = 0.5

    loads = VllmLoads()
    assert loads.total() == EngineLoad()
    first, second = loads.of(None, 0), loads.of(None, 1)
    first.record(Stats(), None, engine_idx=0)
    second.record(None, None)
    assert loads.total() == EngineLoad(running=3, waiting=3, kv_cache_usage=0.5)
    second.record(Stats(), None, mm_cache_stats=None)

    assert loads.total() == EngineLoad(running=6, waiting=6, kv_cache_usage=0.5)
