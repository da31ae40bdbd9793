"""What HTTP costs: the gateway's routes against the handles behind them, in one run.

Per policy call: the policy's Serve handle, `/v1/chat/completions`, `/v1/completions` with a
token prompt. Per rollout: the environment's Serve handle (16 rollouts a call, as `collect`
does), `POST /run`, `RolloutClient`. CPU is that of all processes, clients included. The
scripted policy answers after `--latency` seconds.

    python scripts/bench/gateway.py --count 2000 --in-flight 256

`--load N` instead: N requests to `/run` open at once, from a process of their own; says whether
every one was answered with its own row, and the peak memory of all processes.

    python scripts/bench/gateway.py --load 16000 --latency 60
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from orchestration import ENVIRONMENT, cpu_seconds, own_memory

PROMPT = "What is two plus two? Put the answer into a box. " * 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="calls of each kind")
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--load", type=int, nargs="?", const=16_000)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client is not None:
        print(json.dumps(asyncio.run(client(json.loads(arguments.client)))))
        return
    with tempfile.TemporaryDirectory() as folder:
        serve(Path(folder), arguments)


def serve(folder: Path, arguments: argparse.Namespace) -> None:
    from gym_ray.config.load import load_config
    from gym_ray.serving.application import Application
    from gym_ray.serving.cluster import connect, disconnect
    from gym_ray.serving.gateway_application import GatewayApplication
    from gym_ray.serving.http import start_http

    (folder / "boxed.py").write_text(ENVIRONMENT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = load_config(
        {
            "policy": {
                "engine": "scripted",
                "model": "scripted",
                "engine_args": {"latency_seconds": arguments.latency},
                "resources": {"num_cpus": 0.5},
            },
            "environments": {
                "boxed": {"entrypoint": f"{folder}/boxed.py:Boxed", "resources": {"num_cpus": 0.5}}
            },
            "collect": {"max_in_flight": arguments.in_flight},
            "serve": {"port": port, "api_key_env": None},
        }
    )
    cluster = connect(config)
    start_http(config.serve, print)
    core = Application.deploy(config, print)
    gateway = GatewayApplication.deploy(config, core, print)
    try:
        if arguments.load:
            load(gateway.base_url, arguments.load)
        else:
            asyncio.run(compare(config, core, gateway.base_url, arguments))
    finally:
        gateway.close()
        core.close()
        disconnect(cluster)


# Side by side.


async def compare(config: Any, core: Any, url: str, arguments: argparse.Namespace) -> None:
    count, in_flight = arguments.count, arguments.in_flight
    print(f"{count} calls of each kind, {in_flight} in flight, {arguments.latency:g} s of policy")
    policy = handle_calls(config, core)
    rollouts = handle_rollouts(config, core)

    def http(kind: str) -> Callable[[int], Awaitable[Sequence[float]]]:
        async def run(calls: int) -> Sequence[float]:
            return await http_calls(kind, url, calls, in_flight)

        return run

    await measure("call", "policy handle", lambda n: spread(policy, n, in_flight), count)
    await measure("call", "/v1/chat/completions", http("chat"), count)
    await measure("call", "/v1/completions", http("completions"), count)
    await measure("rollout", "environment handle", lambda n: spread(rollouts, n, in_flight), count)
    await measure("rollout", "/run", http("run"), count)
    await measure("rollout", "RolloutClient", http("client"), count)


_BASELINE: dict[str, float] = {}

#: CPU seconds of the last HTTP client, which has ended before it could be asked.
_client_cpu = 0.0


async def measure(
    unit: str, name: str, work: Callable[[int], Awaitable[Sequence[float]]], count: int
) -> None:
    """Run `work`, after a tenth of it to warm up, and print a line and where the CPU went."""
    global _client_cpu
    await work(count // 10)
    _client_cpu = 0.0
    before, started = cpu_seconds(), time.perf_counter()
    latencies = sorted(await work(count))
    seconds, after = time.perf_counter() - started, cpu_seconds()
    used = {part: value - before.get(part, 0.0) for part, value in after.items()}
    if _client_cpu:
        used = {part: value for part, value in used.items() if not part.startswith("driver")}
        used["client"] = _client_cpu
    cost = sum(used.values()) / count * 1000
    ratio = cost / _BASELINE.setdefault(unit, cost)
    print(
        f"\n{name}: {count / seconds:.0f}/s, {cost:.2f} ms CPU per {unit} ({ratio:.1f} times the "
        f"handle's), latency p50 {latencies[len(latencies) // 2]:.3f} s, "
        f"p99 {latencies[int(len(latencies) * 0.99)]:.3f} s"
    )
    for part, value in sorted(used.items(), key=lambda item: -item[1])[:6]:
        print(f"    {value / count * 1000:6.3f} ms  {part}")


def handle_calls(config: Any, core: Any) -> Callable[[int], Awaitable[list[float]]]:
    """One turn per call, straight to the policy."""
    import numpy as np
    from ray import serve

    from gym_ray.policies.call import Call
    from gym_ray.policies.engine import GenerationRequest
    from gym_ray.sampling import Sampling

    handle = serve.get_deployment_handle("policy", core.name).options(
        stream=True, method_name="generate"
    )
    prompt = np.frombuffer(PROMPT.encode(), dtype=np.uint8).astype(np.int32)

    async def call(number: int) -> list[float]:
        started = time.perf_counter()
        request = GenerationRequest(Call(f"direct-{number}", Sampling(), (258,)), prompt)
        async for _ in handle.remote([request]):
            pass
        return [time.perf_counter() - started]

    return call


def handle_rollouts(config: Any, core: Any) -> Callable[[int], Awaitable[list[float]]]:
    """Sixteen rollouts per call, straight to the environment."""
    import uuid

    from gym_ray.rollout import RolloutSpec
    from gym_ray.runner import RunSettings
    from gym_ray.sampling import Sampling

    settings = RunSettings("bench", Sampling(), 600.0)
    handle: Any = None

    async def call(number: int) -> list[float]:
        nonlocal handle
        if handle is None:
            handle = core.environment("boxed").options(stream=True, method_name="run")
        started, latencies = time.perf_counter(), []
        specs = [
            RolloutSpec(
                uuid.uuid4().hex, "t", number, index, "boxed", "bench", 0, json.dumps(row(number))
            )
            for index in range(16)
        ]
        async for batch in handle.remote(specs, [1] * 16, settings):
            latencies += [time.perf_counter() - started] * len(batch)
        return latencies

    call.size = 16  # type: ignore[attr-defined]
    return call


async def spread(
    call: Callable[[int], Awaitable[list[float]]], count: int, in_flight: int
) -> list[float]:
    """`count` units of work through `call`, `in_flight` at once."""
    size = getattr(call, "size", 1)
    numbers, latencies = iter(range(count // size)), []

    async def work() -> None:
        for number in numbers:
            latencies.extend(await call(number))

    await asyncio.gather(*(work() for _ in range(max(1, in_flight // size))))
    return latencies


# The client, in a process of its own.


async def http_calls(kind: str, url: str, count: int, in_flight: int) -> Sequence[float]:
    global _client_cpu
    order = {"kind": kind, "url": url, "count": count, "in_flight": in_flight}
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--client", json.dumps(order), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    answer = json.loads(output)
    if answer["problems"]:
        raise SystemExit(f"{kind}: {answer['problems'][:3]}")
    _client_cpu = answer["cpu_seconds"]
    latencies: list[float] = answer["latencies"]
    return latencies


async def client(order: dict[str, Any]) -> dict[str, Any]:
    """Makes requests; tells latencies, CPU seconds, and what was wrong."""
    import aiohttp

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    latencies: list[float] = []
    problems: list[str] = []
    seen: set[int] = set()
    numbers = iter(range(order["count"]))
    started_cpu = time.process_time()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
    ) as session:

        async def work() -> None:
            for number in numbers:
                started = time.perf_counter()
                try:
                    path, body = _request(order["kind"], number)
                    async with session.post(order["url"] + path, json=body) as answer:
                        text = await answer.text()
                except aiohttp.ClientError as error:
                    problems.append(f"{number}: {type(error).__name__}: {error}")
                    continue
                latencies.append(time.perf_counter() - started)
                if answer.status != 200:
                    problems.append(f"{number}: {answer.status} {text[:200]}")
                elif order["kind"] == "run":
                    note(json.loads(text), number)

        def note(result: dict[str, Any], number: int) -> None:
            if result["number"] != number or number in seen or result["reward"] != 1.0:
                problems.append(f"{number}: answered with {result['number']}")
            seen.add(number)

        if order["kind"] == "client":
            import gym_ray

            rows = [row(number) for number in numbers]
            started = time.perf_counter()
            async with gym_ray.AsyncRolloutClient(
                order["url"], max_in_flight=order["in_flight"]
            ) as asking:
                async for result in asking.run(rows):
                    note(result.row(), result.index)
                    latencies.append(time.perf_counter() - started)
        else:
            await asyncio.gather(*(work() for _ in range(order["in_flight"])))
    if order["kind"] in ("run", "client") and len(seen) != order["count"]:
        problems.append(f"{order['count'] - len(seen)} rows were not answered")
    return {
        "latencies": latencies,
        "cpu_seconds": time.process_time() - started_cpu,
        "problems": problems,
    }


def _request(kind: str, number: int) -> tuple[str, dict[str, Any]]:
    match kind:
        case "chat":
            messages = [{"role": "user", "content": PROMPT}]
            return "/v1/chat/completions", {"model": "scripted", "messages": messages}
        case "completions":
            prompt = list(PROMPT.encode())
            return "/v1/completions", {"model": "scripted", "prompt": prompt, "max_tokens": 64}
    return "/run", row(number)


def row(number: int) -> dict[str, Any]:
    return {"responses_create_params": {"input": f"{number}: {PROMPT}"}, "number": number}


# Many at once.


def load(url: str, count: int) -> None:
    asyncio.run(http_calls("run", url, 16, 16))
    before_bytes = own_memory()
    print(f"{before_bytes / 2**20:.0f} MiB before; {count} requests at once", flush=True)
    done, peak = threading.Event(), [0]

    def watch() -> None:
        while not done.wait(1):
            peak[0] = max(peak[0], own_memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    order = {"kind": "run", "url": url, "count": count, "in_flight": count}
    started, before = time.perf_counter(), cpu_seconds()
    command = [sys.executable, __file__, "--client", json.dumps(order)]
    answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    seconds, after = time.perf_counter() - started, cpu_seconds()
    done.set()
    watcher.join()
    used = {part: after[part] - before.get(part, 0.0) for part in after}
    print(
        f"{len(answer['latencies'])} answers in {seconds:.0f} s, "
        f"{len(answer['problems'])} problems; peak {peak[0] / 2**20:.0f} MiB, the client included; "
        f"client CPU {answer['cpu_seconds']:.0f} s"
    )
    for part, value in sorted(used.items(), key=lambda item: -item[1])[:6]:
        print(f"    {value / count * 1000:6.3f} ms CPU per rollout  {part}")
    for problem in answer["problems"][:5]:
        print(f"    {problem}")
    if answer["problems"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
