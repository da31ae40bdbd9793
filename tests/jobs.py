"""A Ray cluster with a job server, of two nodes that ask for a token, and a project to submit.

It is started by `ray start --block`, so it ends with the processes this module started and touches
no other cluster of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.cluster import free_port, until

ROOT = Path(__file__).parents[1]
SUBMIT = ROOT / "scripts" / "submit.sh"

#: Ends with the processes it started.
_RAY_START = (str(Path(sys.executable).parent / "ray"), "start", "--block")

#: Starts of a node. On a busy machine Ray's own limits (15 s for an agent) are short.
_STARTS = 3

ENVIRONMENT = '''
import os
from gym_ray import Environment, Outcome, TaskFields


class Sums(Environment):
    """Reward 1 for the right sum, where the job's folder and its variables arrived."""

    class Fields(TaskFields):
        expected_answer: str

    def verify(self, outcome: Outcome) -> float:
        assert "working_dir_files" in __file__, f"not the copy that was sent: {__file__}"
        assert os.environ["HF_TOKEN"] == "token-of-the-hub"
        return float(outcome.text == outcome.task["expected_answer"])
'''

REPLIES = """
import re


def right_sum(prompt, request):
    first, second = re.findall(r"(\\d+) \\+ (\\d+)", prompt)[-1]
    return str(int(first) + int(second))
"""


@dataclass(frozen=True)
class JobServer:
    """A running cluster.

    Attributes:
        address: of its job server, for `RAY_API_SERVER_ADDRESS`.
        variables: environment of a process that may use it.
        metrics: where Prometheus would read those of the head, Serve's controller's among them.
        node: the node beside the head.
    """

    address: str
    variables: dict[str, str]
    metrics: str
    node: psutil.Process

    def submit(self, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What `scripts/submit.sh` does and says in a project's folder."""
        return subprocess.run(
            [str(SUBMIT), *arguments],
            cwd=project,
            env={**self.variables, "HF_TOKEN": "token-of-the-hub"},
            text=True,
            timeout=300,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def replicas_of_node(self) -> list[str]:
        """Names of the Serve replicas that run on the node."""
        names = []
        for process in self.node.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                names += [word for word in process.cmdline()[:1] if "ServeReplica" in word]
        return names

    def lose_node(self) -> None:
        """End every process of the node at once, as a machine that loses its power."""
        # Stopped first, so that none starts another meanwhile.
        self.node.suspend()
        for process in (*self.node.children(recursive=True), self.node):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def ray(self, *arguments: str, check: bool = True) -> str:
        """What a `ray` command says, on both streams."""
        return self._run([_RAY_START[0], *arguments], check)

    def serve(self, command: str, *arguments: str) -> str:
        """What a `serve` command says."""
        program = str(Path(_RAY_START[0]).with_name("serve"))
        return self._run([program, command, *arguments, "--address", self.address], True)

    def application(self, name: str) -> dict[str, Any]:
        """What Serve knows of an application; its status is `NOT_STARTED` while that is nothing."""
        applications = json.loads(_get(self.variables, "/api/serve/applications/"))["applications"]
        found: dict[str, Any] = applications.get(name, {"status": "NOT_STARTED"})
        return found

    def _run(self, command: list[str], check: bool) -> str:
        done = subprocess.run(
            command,
            env=self.variables, text=True, timeout=120,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout
        return done.stdout

    def job(self, submission_id: str) -> dict[str, Any]:
        """What the job server knows of a job."""
        answer: dict[str, Any] = json.loads(_get(self.variables, f"/api/jobs/{submission_id}"))
        return answer


def _answers(variables: dict[str, str]) -> bool:
    """Whether the job server is up."""
    with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
        return b"[" in _get(variables, "/api/jobs/")
    return False


def _get(variables: dict[str, str], path: str) -> bytes:
    headers = {"Authorization": f"Bearer {variables['RAY_AUTH_TOKEN']}"}
    request = urllib.request.Request(variables["RAY_API_SERVER_ADDRESS"] + path, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        body: bytes = answer.read()
        return body


@contextlib.contextmanager
def job_server(*, head_cpus: int = 0, node_cpus: int = 3) -> Iterator[JobServer]:
    """A head, where drivers run, and a node.

    Args:
        head_cpus, node_cpus: logical CPUs of each.
    """
    # Not below pytest's own folder, whose name is too long for Ray's sockets.
    folder = Path(tempfile.mkdtemp(prefix="gr-"))
    port, dashboard = free_port(), free_port()
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        # In place of an installation on every node.
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_AUTO_CONNECT": "0",
    }
    metrics = free_port()
    log = folder / "start.log"
    head = (
        "--head", f"--port={port}", f"--num-cpus={head_cpus}", f"--temp-dir={folder}/ray",
        "--include-dashboard=true", f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={free_port()}", f"--metrics-export-port={metrics}",
    )  # fmt: skip
    # As on a machine of its own, where the job's folder has another path too.
    node = (
        f"--address=127.0.0.1:{port}", f"--num-cpus={node_cpus}", f"--temp-dir={folder}/other",
        f"--metrics-export-port={free_port()}",
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(_node(variables, log, *head))
        until(
            lambda: _answers(variables), 90, f"the job server answers; it said: {log.read_text()}"
        )
        process = stack.enter_context(_node(variables, log, *node))
        yield JobServer(
            variables["RAY_API_SERVER_ADDRESS"],
            variables,
            f"http://127.0.0.1:{metrics}/metrics",
            process,
        )


@contextlib.contextmanager
def _node(variables: dict[str, str], log: Path, *options: str) -> Iterator[psutil.Process]:
    process = None
    for _ in range(_STARTS):
        process = _start(variables, log, *options)
        if process is not None:
            break
    if process is None:
        pytest.fail(f"a node does not start: {log.read_text()}")
    try:
        yield psutil.Process(process.pid)
    finally:
        _end(process)


def _start(variables: dict[str, str], log: Path, *options: str) -> subprocess.Popen[bytes] | None:
    """A node that is up; None where Ray gave up on it, as it does on a busy machine."""
    common = (
        f"--dashboard-agent-listen-port={free_port()}",
        f"--dashboard-agent-grpc-port={free_port()}",
        "--node-ip-address=127.0.0.1",
        "--object-store-memory=150000000",
        "--disable-usage-stats",
    )
    before = log.stat().st_size if log.exists() else 0
    with open(log, "ab") as file:
        process = subprocess.Popen(
            [*_RAY_START, *options, *common],
            env=variables, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip

    def up() -> bool:
        return b"Ray runtime started" in log.read_bytes()[before:]

    try:
        until(lambda: up() or process.poll() is not None, 120, f"a node is up, see {log}")
    except BaseException:
        _end(process)
        raise
    return process if process.poll() is None else None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def write_project(folder: Path, output: Path, *, tasks: int, latency_seconds: float) -> Path:
    """A user's folder: an environment, a reply, tasks, a config, and what should not be sent.

    Returns:
        The folder; its config is `sums.yaml`.
    """
    package = folder / "mine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "sums.py").write_text(textwrap.dedent(ENVIRONMENT))
    (package / "replies.py").write_text(textwrap.dedent(REPLIES))
    rows = [
        {"responses_create_params": {"input": f"{n} + {n} = ?"}, "expected_answer": str(2 * n)}
        for n in range(tasks)
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "policy": {
            "engine": "scripted",
            "model": "scripted",
            "engine_args": {
                "reply": "mine.replies:right_sum", "latency_seconds": latency_seconds
            },
            "resources": {"num_cpus": 0.2},
        },
        "environments": {
            "sums": {"entrypoint": "mine/sums:Sums", "resources": {"num_cpus": 0.2}}
        },
        "verification": {"processes": 1},
        "collect": {"input": "tasks.jsonl", "output": str(output), "max_in_flight": 16},
    }  # fmt: skip
    (folder / "sums.yaml").write_text(yaml.safe_dump(config))
    for left_behind in ("runs/earlier/rollouts/0.parquet", ".venv/bin/python", ".git/HEAD"):
        path = folder / left_behind
        path.parent.mkdir(parents=True)
        path.write_text("not for the cluster")
    return folder
