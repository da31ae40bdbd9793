"""The two large applications that modules of tests/service share: each start costs some seconds of
a core for every replica, and whatever needs nothing of its own does without.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import HERE, logged_requests, scripted_config, serve_port, until, write_rows

#: Keys of the service.
KEY = "the-key-of-this-test"
ADMIN_KEY = "the-admins-key"

#: What `agent: external` starts.
OUTSIDE_AGENT = [sys.executable, "-m", "tests.outside_agent"]

#: A generation of the service's policy: longer than a lease of the tests' clients, so that it shows
#: when one is given up.
GENERATION_SECONDS = 3.0

_RESOURCES = {"resources": {"num_cpus": 0.1}}
_ARITHMETIC = {"entrypoint": f"{HERE}/arithmetic.py:Arithmetic", **_RESOURCES}
_ROW_TOOLS = {"entrypoint": "tests.workshop:RowTools", **_RESOURCES}


class Playground:
    """One policy and one judge, with an environment of every kind; there is no gateway.

    Args:
        folder: of its own files.
    """

    def __init__(self, folder: Path) -> None:
        self.requests = folder / "requests"

    def config(
        self, folder: Path, rows: Iterable[dict[str, Any]], **sections: Any
    ) -> dict[str, Any]:
        """The config of a collection by it; arguments are those of `scripted_config`.

        Its sections are the same for everyone, but for what is a collection's own, such as
        `environments__scarce__max_in_flight`.
        """
        config = scripted_config(folder, write_rows(folder / "tasks.jsonl", rows), self.requests)
        config["policy"]["engine_args"]["reply"] = "tests.replies:as_asked"
        config["judges"] = {
            "grader": {
                "engine": "scripted",
                # Taken for a rating by the environment, and for a tie by the ranking.
                "engine_args": {"reply": "[[C]], or [[3]]"},
                **_RESOURCES,
            }
        }
        config["verification"] = {"timeout_seconds": 30, "processes": 1}
        config["observability"] = {"log_format": "json"}
        config["environments"] = {
            "workshop": {
                "entrypoint": "tests.workshop:Workshop",
                "agent": "tool_calling",
                "mcp_servers": {
                    "tests": {
                        "command": sys.executable,
                        "args": ["-m", "tests.mcp_server"],
                        "env": {"PYTHONPATH": str(HERE.parent)},
                        "tools": ["shout"],
                    }
                },
                **_RESOURCES,
            },
            "guessing": {
                "entrypoint": "tests.workshop:Guessing", "agent": "gymnasium", **_RESOURCES
            },
            "open": {
                "entrypoint": "gym_ray.environments.judge:JudgeEnvironment",
                "params": {
                    "judge": "grader",
                    "template": "{prompt} The reply: {response} Rate it.",
                    "score": {"high": 4},
                },
                "group_verifiers": {
                    "rank": {
                        "use": "gym_ray.verifiers.groups:ranking",
                        "params": {"judge": "grader"},
                        "weight": 0.5,
                    }
                },
                **_RESOURCES,
            },
            # Of one module each, which counts its rollouts.
            "observed": _ARITHMETIC,
            "scarce": dict(_ARITHMETIC),
            "plenty": dict(_ARITHMETIC),
        }  # fmt: skip
        for key, value in sections.items():
            *path, last = key.split("__")
            section = config
            for part in path:
                section = section.setdefault(part, {})
            section[last] = value
        return config


class Service:
    """A `gym-ray serve` process on the session's cluster, started when it is asked for.

    Its environments are `arithmetic` (sums), and twice the same one with tools of the task row,
    with the built-in agent (`inside`) and with one outside (`outside`). It has two gateways, asks
    for keys, and records what it serves. There is one gateway to a cluster, so a module with one
    of its own stops it before; the next that asks for it starts it again.

    Args:
        cluster: its address.
        folder: of its files.

    Attributes:
        requests: log of the policy's requests.
    """

    def __init__(self, cluster: str, folder: Path) -> None:
        self.requests = folder / "requests"
        self._cluster = cluster
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[str] = []
        self._reader: threading.Thread | None = None

    def config(
        self, folder: Path | None = None, rows: Iterable[dict[str, Any]] = (), **collect: Any
    ) -> dict[str, Any]:
        """Its config, with the input and the output of a collection that uses it."""
        folder = folder or self._folder
        path = write_rows(folder / "tasks.jsonl", rows)
        config = scripted_config(folder, path, self.requests)
        config["policy"]["engine_args"] |= {
            "reply": "tests.replies:as_asked", "latency_seconds": GENERATION_SECONDS
        }  # fmt: skip
        config["environments"] = {
            "arithmetic": _ARITHMETIC,
            "inside": {**_ROW_TOOLS, "agent": "tool_calling"},
            "outside": {**_ROW_TOOLS, "agent": "external", "external": {"command": OUTSIDE_AGENT}},
        }
        config["serve"] = {
            "port": serve_port(),
            "output": str(self._folder / "served"),
            "autoscaling": {"min_replicas": 2, "max_replicas": 2},
        }
        config["collect"] |= {"max_in_flight": 128, **collect}
        return config

    @property
    def output(self) -> Path:
        """Dataset of what it serves."""
        return self._folder / "served"

    @property
    def config_file(self) -> Path:
        """What it was started with."""
        return self._folder / "serve.yaml"

    def start(self) -> str:
        """Start it, unless it runs; returns its base URL."""
        process = self._process = self._process or self._spawned()
        # Whoever comes after one that waited in vain waits on.
        until(
            lambda: any("ready at" in line for line in self._lines) or process.poll() is not None,
            100,
            "the service is ready",
        )
        assert process.poll() is None, self._lines
        assert not any(key in line for line in self._lines for key in (KEY, ADMIN_KEY))
        return next(line for line in self._lines if "ready at" in line).split()[2].rstrip(";")

    def _spawned(self) -> subprocess.Popen[str]:
        self.config_file.write_text(yaml.safe_dump(self.config()))
        lines: list[str] = []
        self._lines = lines
        process = subprocess.Popen(
            [sys.executable, "-m", "gym_ray", "serve", str(self.config_file)],
            env={
                **os.environ,
                "RAY_ADDRESS": self._cluster,
                "GYM_RAY_API_KEY": KEY,
                "GYM_RAY_ADMIN_KEY": ADMIN_KEY,
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(
            target=lambda: lines.extend(process.stderr or ()), daemon=True
        )
        self._reader.start()
        return process

    def stop(self) -> None:
        """End it as Ctrl-C does, which leaves no application of it behind."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=100) == 0, self._lines
        assert self._reader is not None
        self._reader.join(timeout=10)
        from ray import serve

        named = [line for line in self._lines if "serving" in line]
        assert named
        assert not [
            name for name in serve.status().applications if any(name in line for line in named)
        ]

    def started(self) -> set[str]:
        """Rollouts, or single requests, whose generations have begun."""
        return set(logged_requests(self.requests))

    def aborted(self) -> set[str]:
        """Those whose generations were given up."""
        if not self.requests.exists():
            return set()
        entries = [json.loads(line) for line in self.requests.read_text().splitlines()]
        return {entry["request_id"].split("/")[0] for entry in entries if entry.get("aborted")}
