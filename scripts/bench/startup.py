"""What it takes from a command to rollouts: seconds to the first and the last of a few.

Each line is a command of its own, run one after the other, so that figures of one run can be
compared. The first rollout's end is read from its row; the command's start is when its process
was started.

    python scripts/bench/startup.py                        # embedded and on Ray, scripted policy
    python scripts/bench/startup.py --model bundled:smollm2-135m    # the model, and vLLM by itself
    python scripts/bench/startup.py --before CHECKOUT      # another checkout's collect beside it
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

import gym_ray

ROOT = Path(__file__).parents[2]
ROLLOUTS = 4

ENVIRONMENT = '''
from gym_ray import Environment, Outcome


class Boxed(Environment):
    """Reward 1 when the reply holds the number 4; judged in a verifier process."""

    def verify(self, outcome: Outcome) -> float:
        return float("4" in outcome.text)
'''

#: vLLM by itself: from the start of the interpreter to the first token.
PLAIN = """
import sys, time
import vllm
from gym_ray.policies.bundled import resolve_model

arguments = {"enforce_eager": True, "kv_cache_memory_bytes": 1024**3, "dtype": "float32"}
llm = vllm.LLM(resolve_model(sys.argv[1]), max_model_len=1024, max_num_seqs=64, **arguments)
llm.generate("1", vllm.SamplingParams(max_tokens=1), use_tqdm=False)
print("first token", time.time())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", help="also this model through vLLM, and vLLM by itself")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier gym-ray")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scripted = write_config(folder, "scripted", {"engine": "scripted", "model": "scripted"})
        for number in range(arguments.runs):
            measure("embedded, scripted", folder, scripted, number, "cluster=local")
            measure("on Ray, scripted", folder, scripted, number, "cluster=ray")
            if arguments.before:
                measure("on Ray, scripted, before", folder, scripted, number, root=arguments.before)
            if arguments.model:
                policy = {
                    "engine": "vllm",
                    "model": arguments.model,
                    "engine_args": {"dtype": "float32", "max_model_len": 1024, "max_num_seqs": 64},
                }
                config = write_config(folder, "model", policy)
                plain(arguments.model)
                measure("embedded, model", folder, config, number, "cluster=local")


def write_config(folder: Path, name: str, policy: dict[str, Any]) -> Path:
    """A config of a few rollouts, and the files it names."""
    (folder / "boxed.py").write_text(ENVIRONMENT)
    rows = [{"responses_create_params": {"input": f"{n}: 2 + 2?"}} for n in range(ROLLOUTS)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "policy": {**policy, "resources": {"num_cpus": 0.5}},
        "environments": {
            "boxed": {"entrypoint": f"{folder}/boxed.py:Boxed", "resources": {"num_cpus": 0.5}}
        },
        "verification": {"processes": 1},
        "sampling": {"max_output_tokens": 8},
        "collect": {"input": str(folder / "tasks.jsonl")},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def measure(
    title: str, folder: Path, config: Path, number: int, *overrides: str, root: Path = ROOT
) -> None:
    """Run one `collect`, and print what it took."""
    output = folder / f"{title.replace(' ', '-')}-{number}"
    command = [sys.executable, "-m", "gym_ray", "collect", str(config), f"collect.output={output}"]
    surroundings = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    began = time.time()
    process = subprocess.Popen(
        [*command, *overrides, "--quiet"],
        env={**surroundings, "PYTHONPATH": str(root)},
        cwd=root,
        stdout=subprocess.DEVNULL,
    )
    memory = Memory(process.pid)
    code = process.wait()
    whole = time.time() - began
    memory.stop()
    if code:
        raise SystemExit(f"{title}: exit code {code}")
    ends = sorted(
        rollout.started_at.timestamp() + rollout.seconds - began
        for rollout in gym_ray.read_rollouts(output)
    )
    print(
        f"{title:<28} first rollout {ends[0]:5.1f} s, last of {len(ends)} {ends[-1]:5.1f} s, "
        f"command {whole:5.1f} s, {memory.peak / 2**20:5.0f} MiB at most",
        flush=True,
    )


def plain(model: str) -> None:
    """Run vLLM by itself, and print what it took."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", f"if __name__ == '__main__':\n{_indented(PLAIN)}", model],
        env={**os.environ, "TORCH_COMPILE_DISABLE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        capture_output=True,
        text=True,
        check=False,
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("first token ")]
    if not told:
        raise SystemExit(done.stderr)
    print(f"{'vLLM by itself':<28} first token   {float(told[0].split()[2]) - began:5.1f} s")


def _indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.splitlines())


class Memory:
    """The most memory that a process and all below it had at once, shared pages counted once."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._root = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.2):
            total = 0
            try:
                for process in [self._root, *self._root.children(recursive=True)]:
                    total += process.memory_full_info().pss
            except psutil.Error:
                continue
            self.peak = max(self.peak, total)


if __name__ == "__main__":
    main()
