"""How vLLM is had to compute where there is no GPU."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gym_ray.policies.cpu_cores import cpu_executor, use_cpu_threads

ONE = {"tensor_parallel_size": 1}


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_threads_are_as_many_as_asked_for_unless_the_user_bound_them() -> None:
    use_cpu_threads(3)
    assert os.environ["OMP_NUM_THREADS"] == "3"

    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "0-1"
    use_cpu_threads(2)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "0-1"


@pytest.mark.parametrize(
    ("bound", "arguments", "in_core"),
    [
        ("nobind", ONE, True),
        ("nobind", {**ONE, "pipeline_parallel_size": 1}, True),
        ("nobind", {"tensor_parallel_size": 2}, False),
        ("nobind", {**ONE, "data_parallel_size": 2}, False),
        ("0-1", ONE, False),
    ],
)
def test_the_core_computes_by_itself_where_it_is_alone_and_no_thread_is_bound(
    bound: str, arguments: dict[str, Any], in_core: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", bound)

    found = cpu_executor({"dtype": "float32", **arguments})

    assert bool(found) == in_core
    assert set(found) <= {"distributed_executor_backend"}
