"""How many cores an engine without a GPU may compute on, and how vLLM is told."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any


def available_cores() -> int:
    """Cores this process may compute on: its affinity, cut down to its cgroup's quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        return cores


def use_cpu_threads(threads: int) -> None:
    """Have vLLM's worker compute with this many threads, unless the user bound them.

    Left to itself vLLM keeps one core back, half of a small machine, and pins its threads to
    the same cores in every replica. Ray adds `OMP_NUM_THREADS=1` for actors of up to one CPU.
    """
    if "VLLM_CPU_OMP_THREADS_BIND" not in os.environ:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    if os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind":
        os.environ["OMP_NUM_THREADS"] = str(threads)


def cpu_executor(arguments: Mapping[str, Any]) -> dict[str, str]:
    """The engine argument that has vLLM's core compute in its own process, where that will do.

    Left to itself vLLM starts a worker process for it, so that threads can be bound there: every
    start then loads vLLM once more (10 s of CPU time), and the core's process keeps a core busy
    with polling for answers. Threads that are not bound need no process of their own.

    Args:
        arguments: of the engine, complete but for this one.
    """
    sizes = {size for name, size in arguments.items() if name.endswith("_parallel_size")}
    if sizes != {1} or os.environ["VLLM_CPU_OMP_THREADS_BIND"] != "nobind":
        return {}
    return {"distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor"}
