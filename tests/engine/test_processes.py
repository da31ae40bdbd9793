"""No process outlives the engine or the process that hosts it.

Uses up the shared replicas, so that no more need starting: it runs after the other modules.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from gym_ray.errors import ConfigError, GymRayError, RolloutFailure
from gym_ray.policies.call import Call
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.vllm import VllmEngine
from gym_ray.sampling import Sampling

HOST = Path(__file__).with_name("engine_host.py")
GONE_SECONDS = 30.0

REQUEST = GenerationRequest(Call("test", Sampling()), np.array([5], np.int32))


def test_a_sigkilled_host_leaves_no_process_behind(tiny_checkpoint: Path) -> None:
    host = subprocess.Popen(
        [sys.executable, str(HOST), str(tiny_checkpoint)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert host.stdout is not None
    try:
        # vLLM logs to stdout too; the host's own line is the one of JSON.
        seed = next(json.loads(line)["seed"] for line in host.stdout if line.startswith("{"))
        processes = psutil.Process(host.pid).children(recursive=True)
        assert seed > 0
        assert len(processes) >= 2
    finally:
        host.kill()
        host.wait()
    _, alive = psutil.wait_procs(processes, timeout=GONE_SECONDS)
    assert alive == []


def test_an_engine_whose_core_died_fails_calls_and_health_and_still_stops_cleanly(
    replica_two: VllmEngine, run: Any
) -> None:
    async def scenario() -> None:
        await replica_two.check_health()
        owned = [psutil.Process(pid) for pid in replica_two.process_ids]
        next(process for process in owned if "EngineCore" in process.name()).kill()
        with pytest.raises(RolloutFailure, match="policy_error"):
            await _generate_until_it_fails(replica_two)
        with pytest.raises(Exception, match="EngineCore"):
            await replica_two.check_health()
        await replica_two.stop()
        _, alive = psutil.wait_procs(owned, timeout=GONE_SECONDS)
        assert alive == []

    run(scenario())


def test_stop_leaves_no_process_behind(replica_one: VllmEngine, run: Any) -> None:
    before = _children()
    owned = {psutil.Process(pid) for pid in replica_one.process_ids}
    assert owned
    run(replica_one.stop())
    gone = before - _children()
    assert owned <= gone | {process for process in owned if not process.is_running()}
    assert len(gone - owned) == 1  # the orphan watch
    with pytest.raises(RolloutFailure, match="policy_unavailable"):
        run(replica_one.generate(REQUEST))


def test_a_model_that_cannot_be_loaded_is_a_config_error_and_leaves_no_process_behind(
    tmp_path: Path, run: Any
) -> None:
    before = _children()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="refuses"):
        run(VllmEngine(model=str(tmp_path)).start())
    assert _children() - before == set()


def test_an_engine_whose_core_cannot_start_says_why_and_where_it_is_written(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Refused by vLLM's core, in a process of its own, which writes the reason into a log."""
    log = tmp_path / "host.log"
    with log.open("wb") as file:
        host = subprocess.run(
            [sys.executable, str(HOST), str(tiny_checkpoint), "kv_cache_memory_bytes=1024"],
            stdout=file, stderr=file, timeout=240,
        )  # fmt: skip
    assert host.returncode != 0
    raised = r"^gym_ray\.errors\.GymRayError: vLLM could not start: (.*)$"
    (told,) = re.findall(raised, log.read_text(), re.M)
    assert told.startswith("ValueError: No available memory for the cache blocks")
    assert told.endswith(f"(all of it: {log})")


def test_an_engine_whose_core_is_killed_while_it_starts_fails_at_once(
    tiny_checkpoint: Path, run: Any
) -> None:
    before = _children()
    engine = VllmEngine(model=str(tiny_checkpoint))

    async def scenario() -> None:
        starting = asyncio.ensure_future(engine.start())
        while not (cores := [p for p in _children() - before if "EngineCore" in p.name()]):
            assert not starting.done()
            await asyncio.sleep(0.05)
        cores[0].kill()
        killed = time.monotonic()
        with pytest.raises(GymRayError, match=r"could not start: .*one that is killed"):
            await starting
        assert time.monotonic() - killed < GONE_SECONDS

    run(scenario())
    assert _children() - before == set()


async def _generate_until_it_fails(engine: VllmEngine) -> None:
    while True:  # a call or two may pass before the loss is noticed
        await engine.generate(REQUEST)


def _children() -> set[psutil.Process]:
    """Child processes at any depth, without Python's own, which ends with this process."""
    return {
        process
        for process in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(process.cmdline())
    }
