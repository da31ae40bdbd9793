"""How many cores an engine without a GPU may compute on, and how vLLM is told."""

from __future__ import annotations

import math
import os


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
