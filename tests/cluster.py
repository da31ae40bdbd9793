"""What service and chaos tests share: one Ray cluster, configs of the scripted policy."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

HERE = Path(__file__).parent

#: Enough logical CPUs for several small applications at once on any machine.
LOGICAL_CPUS = 4


def start_cluster() -> Iterator[str]:
    """A Ray cluster of our own; yields its address, for drivers in other processes."""
    import ray
    from ray import serve

    from gym_ray.serving import SERVE_ENVIRONMENT
    from gym_ray.serving.cluster import NAMESPACE, _start

    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    # Nobody listens there but the test of traces, and no other test makes spans.
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = spans = f"http://127.0.0.1:{SPANS_PORT}"
    # As ours are, again where a busy machine missed a deadline of Ray's own.
    _start(
        address="local",
        num_cpus=LOGICAL_CPUS,
        namespace=NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={
            "env_vars": {
                **SERVE_ENVIRONMENT,
                "PYTHONPATH": str(HERE.parent),
                "OTEL_EXPORTER_OTLP_ENDPOINT": spans,
            }
        },
    )
    # Serve listens for all tests of the session, as whether it does is settled at its start.
    serve.start(proxy_location="EveryNode", http_options={"host": "127.0.0.1", "port": free_port()})
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def serve_port() -> int:
    """Where Serve listens on the session's cluster."""
    from ray.serve.context import _get_global_client

    port: int = _get_global_client().get_serve_details()["http_options"]["port"]
    return port


def replica_processes(config: dict[str, Any] | Path, deployment: str) -> dict[str, psutil.Process]:
    """The replicas that run for a config on the session's cluster, by name."""
    from ray.serve.context import _get_global_client

    from gym_ray.config.load import load_config
    from gym_ray.serving.application import application_name

    details = _get_global_client().get_serve_details()
    application = details["applications"][application_name(load_config(config))]
    return {
        replica["replica_id"]: psutil.Process(replica["pid"])
        for replica in application["deployments"][deployment]["replicas"]
        if replica["pid"] is not None
    }


#: Where workers of the session's cluster send spans of traced rollouts.
SPANS_PORT = free_port()


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """A JSONL file of rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sums(count: int, folder: Path, **fields: Any) -> list[dict[str, Any]]:
    """Tasks of the arithmetic test environment, of which no other folder has any.

    Args:
        fields: further ones of every row, such as `agent_ref` where it is one of several.
    """
    return [
        {
            "folder": str(folder),
            "responses_create_params": {"input": [{"role": "user", "content": f"{n} + {n} = ?"}]},
            "expected_answer": str(2 * n),
            **fields,
        }
        for n in range(count)
    ]


def scripted_config(folder: Path, rows: Path, requests: Path, **sections: Any) -> dict[str, Any]:
    """A config of the scripted policy and the arithmetic environment.

    Args:
        requests: where the policy logs its requests. Configs with the same log share one
            application.
        folder: where the output goes (`run`).
        rows: input file.
        sections: dotted keys with double underscores, e.g. `collect__max_in_flight=8`.
    """
    config: dict[str, Any] = {
        "policy": {
            "engine": "scripted",
            "model": "scripted",
            "engine_args": {
                "reply": "tests.replies:right_sum",
                "context_length": 4096,
                "request_log": str(requests),
            },
            "resources": {"num_cpus": 0.2},
        },
        "environments": {
            "arithmetic": {
                "entrypoint": f"{HERE}/arithmetic.py:Arithmetic",
                "resources": {"num_cpus": 0.2},
            }
        },
        "verification": {"timeout_seconds": 4, "processes": 1},
        "collect": {"input": str(rows), "output": str(folder / "run"), "max_in_flight": 64},
    }
    for key, value in sections.items():
        *path, last = key.split("__")
        section = config
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return config


def logged_requests(path: Path, rollouts: Collection[str] | None = None) -> list[str]:
    """The rollouts of the requests the scripted policy has seen, one entry per request.

    Args:
        path: the policy's request log.
        rollouts: count only these, where several runs share a log.
    """
    if not path.exists():
        return []
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    seen = [
        entry["request_id"].split("/")[0] for entry in entries if not entry.get("aborted", False)
    ]
    return seen if rollouts is None else [rollout for rollout in seen if rollout in rollouts]


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition, polling; fail the test when it does not come true in time."""
    import threading
    import time

    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what}")
        pause.wait(0.05)
