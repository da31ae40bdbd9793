"""Mistakes of a first hour: each is told in a line, at once, and nothing is started or left.

One table for `collect` and `serve`. Commands run in this process, where a second of its time is a
second of a person's; some of them once more as processes of their own, to see what those import and
take from the first instruction on.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gym_ray.cli.main import main
from gym_ray.config.load import load_config
from gym_ray.errors import ConfigError
from gym_ray.policies.vllm_arguments import KnownArguments, check_engine_args
from gym_ray.serving.preconditions import check_application
from tests.suite import PATIENCE

ROOT = Path(__file__).parents[2]

#: From Enter to the message; of computing time, since machines that run tests are busy.
SECONDS = 3.0

SUM = {"responses_create_params": {"input": "1 + 1 = ?"}, "expected_answer": "2"}

CONFIG: dict[str, Any] = {
    "environments": {"math": {}},
    "collect": {"input": "tasks.jsonl", "output": "runs/demo"},
}

REMOTE = 'policy={"engine":"openai","engine_args":{"base_urls":["http://127.0.0.1:9/v1"]}}'
SCRIPTED = 'policy={"engine":"scripted"}'
STRICT = "environments.math.params.judge=strict"

#: Arguments after the config, and what is said. `{port}` is taken, `{folder}` the working
#: directory.
MISTAKES: list[tuple[str, str]] = [
    # Keys and values of the config.
    ("colect.num_repeats=3", "unknown key 'colect'; did you mean 'collect'?"),
    ("collect.num_repeat=3", "unknown key 'collect.num_repeat'; did you mean 'num_repeats'?"),
    ("num_repeats=3", "did you mean 'collect.num_repeats'?"),
    ("--num-repeats 3", "write collect.num_repeats=VALUE"),
    ("collect.num_repeats=abc", "collect.num_repeats: Input should be a valid integer"),
    ("collect.num_repeats=0", "greater than or equal to 1 (got 0)"),
    ("policy.engine=vlm", "policy.engine: Input should be 'vllm', 'openai' or 'scripted'"),
    ("--objective foo", "collect.objective: Input should be 'rl', 'sft' or 'dpo'"),
    # Arguments of engines.
    (
        "policy.engine_args.max_modle_len=3",
        "policy.engine_args.max_modle_len: vLLM 0.32.0 has no such argument; did you mean "
        "'max_model_len'?",
    ),
    ("policy.engine_args.zzz=3", "vLLM 0.32.0 has no such argument; see vllm.AsyncEngineArgs"),
    (
        "policy.engine_args.max_model_len=long",
        "policy.engine_args.max_model_len: vLLM 0.32.0 takes a whole number, not 'long'",
    ),
    ("policy.engine_args.dtype=flaot32", "not 'flaot32'; did you mean 'float32'?"),
    ("policy.engine_args.enforce_eager=perhaps", "takes true or false, not 'perhaps'"),
    ("policy.engine_args.gpu_memory_utilization=1.5", "must be more than 0 and at most 1, got 1.5"),
    ("policy.engine_args.model=x", "policy.engine_args.model: set policy.model instead"),
    ("policy.engine_args.enable_lora=true", "serve merged weights as policy.model; leave it out"),
    (
        f"{SCRIPTED} policy.engine_args.latency=1",
        "policy.engine_args.latency: unknown key; did you mean 'latency_seconds'?",
    ),
    (
        f"{SCRIPTED} policy.engine_args.failure_rate=2",
        "policy.engine_args.failure_rate: Input should be less than or equal to 1",
    ),
    (
        f"{SCRIPTED} policy.engine_args.reply=no.such.module:reply",
        "policy.engine_args.reply 'no.such.module:reply': ModuleNotFoundError",
    ),
    (f"{SCRIPTED} policy.engine_args.slots=0", "policy.engine_args.slots: Input should be greater"),
    ("policy.engine=openai", "policy.engine_args.base_urls: Field required"),
    (f"{REMOTE} policy.engine_args.max_retry=1", "unknown key; did you mean 'max_retries'?"),
    (f"{REMOTE} policy.engine_args.base_urls=[127.0.0.1:9]", "must look like http://HOST:PORT/v1"),
    (f"{REMOTE} policy.engine_args.api_key_env=NO_SUCH_KEY", "NO_SUCH_KEY is not set"),
    (f"{REMOTE} policy.model=./nowhere", "policy.model './nowhere' is not a directory"),
    (
        REMOTE,
        "no server of policy.engine_args.base_urls is up: http://127.0.0.1:9/v1: Connection "
        "refused; start one, or mend the address",
    ),
    # Models.
    ("policy.model=./nomodel", "policy.model './nomodel' is not a directory"),
    ("policy.model=./modle", "is not a directory; did you mean 'model'?"),
    ("policy.model=~/model", "is not a directory; write '"),
    ("policy.model={folder}/nomodel", "nomodel' is not a directory"),
    ("policy.model=./model", "the folder holds no checkpoint: there is no config.json"),
    ("policy.model=./weightless", "there is no *.safetensors nor *.bin nor *.pt in it"),
    ("policy.model=org/model:latest", "neither a folder here nor a name that a model"),
    ("policy.model=bundled:foo", "no bundled model 'bundled:foo'; known: bundled:smollm2-135m"),
    ("policy.renderer=qwen9", "policy.renderer: unknown renderer 'qwen9'; did you mean 'qwen3'?"),
    # What the machine has not.
    (
        "policy.resources.num_gpus=1",
        "policy.resources asks for 1 GPU(s) and this machine has 0. Set "
        "policy.resources.num_gpus=0 to use vLLM's CPU build",
    ),
    ('policy.resources.bundles=[{"GPU":1},{"GPU":1}]', "asks for 2 GPU(s)"),
    (
        "environments.math.agent=external environments.math.external.command=[no-such-program]",
        "environments.math.external.command: no program 'no-such-program' is found in PATH",
    ),
    (
        "environments.math.agent=external environments.math.external.command=[./agent.sh]",
        "environments.math.external.command: {folder}/agent.sh is no program that can be started",
    ),
    (
        "environments.math.agent=tool_calling "
        "environments.math.mcp_servers.clock.command=no-such-program",
        "environments.math.mcp_servers.clock.command: no program 'no-such-program'",
    ),
    (
        "environments.math.agent=tool_calling "
        "environments.math.mcp_servers.clock.url=http://127.0.0.1:9/mcp "
        "environments.math.mcp_servers.clock.header_variables.Authorization=NO_SUCH_KEY",
        "clock.header_variables: environment variables NO_SUCH_KEY are not set; export them",
    ),
    (
        "environments.math.agent=external environments.math.external.url=http://127.0.0.1:9 "
        "serve.port={port}",
        "Address already in use; set another one, e.g. serve.port=",
    ),
    # Judges: as the policy, by their own name.
    (
        f"{STRICT} judges.strict.engine_args.max_modle_len=3",
        "judges.strict.engine_args.max_modle_len: vLLM 0.32.0 has no such argument",
    ),
    (f"{STRICT} judges.strict.model=bundled:foo", "judges.strict.model: there is no bundled model"),
    (f"{STRICT} judges.strict.model=./nomodel", "judges.strict.model './nomodel' is not a dir"),
    (f"{STRICT} judges.strict.renderer=qwen9", "judges.strict.renderer: unknown renderer 'qwen9'"),
    (
        f"{STRICT} judges.strict.engine=openai",
        "judges.strict.engine_args.base_urls: Field required",
    ),
    (
        f"{STRICT} judges.strict.engine=scripted judges.strict.engine_args.replly=x",
        "judges.strict.engine_args.replly: unknown key; did you mean 'reply'?",
    ),
    (f"{STRICT} judges.strict.resources.num_gpus=1", "1 GPU(s) (judges.NAME.resources included)"),
    (STRICT, "environments.math asks judge 'strict'"),
    # Environments.
    ('environments={"maths":{}}', "no environment is registered by that name; did you mean"),
    ("environments.math.params.boxed=true", "environments.math.params: MathEnvironment refuses"),
    ("environments.math.entrypoint=./nowhere:Math", "cannot be imported"),
    ("environments.math.agent=gymnasium", "gymnasium needs a gym_ray.GymnasiumEnvironment"),
]

#: The same, of what only `collect` reads or writes.
COLLECT_MISTAKES: list[tuple[str, str]] = [
    ("collect.input=nope.jsonl", "collect.input 'nope.jsonl': no such file"),
    ("collect.input=env:nope", "no environment 'nope' is configured; configured: math"),
    ("collect.input=env:math", "does not generate tasks"),
    ("collect.input=README.md", "is no file of task rows: it begins with '# Title'"),
    ("collect.input=.", "is a folder; write ./*.jsonl"),
    ("collect.input=empty.jsonl", "empty.jsonl holds no task rows"),
    ("collect.input=links.md", "not one of 2 rows is a task for this config; links.md:1: row"),
    (
        "collect.input=other.jsonl",
        "not one of 30 rows is a task for this config; other.jsonl:1: row does not fit environment "
        "MathEnvironment: field 'expected_answer': Field required",
    ),
    ("collect.output=tasks.jsonl", "'tasks.jsonl': cannot be written: File exists"),
    ("collect.output=tasks.jsonl/demo", "cannot be written: Not a directory"),
    ("collect.output=/proc/demo", "'/proc/demo': cannot be written"),
    ("collect.output=.", "the folder is not empty"),
    (
        "environments.math.agent=external",
        "agent is external, and collect has nothing to start: set",
    ),
]

#: The same, of `serve`.
SERVE_MISTAKES: list[tuple[str, str]] = [
    (
        "serve.port={port}",
        "cannot listen on serve.host=127.0.0.1, serve.port={port}: Address already in use; set "
        "another one, e.g. serve.port=",
    ),
    ("serve.host=192.0.2.1", "cannot listen on serve.host=192.0.2.1"),
    ("serve.output=tasks.jsonl", "'tasks.jsonl': cannot be written: File exists"),
]

COMMANDS = {
    "collect": [*MISTAKES, *COLLECT_MISTAKES],
    "serve": [*(row for row in MISTAKES if not row[0].startswith("--")), *SERVE_MISTAKES],
}
TABLE = [(command, *row) for command, rows in COMMANDS.items() for row in rows]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a config that could be run."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "tasks.jsonl").write_text(json.dumps(SUM) + "\n")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "README.md").write_text("# Title\n\n**bold**\n")
    (tmp_path / "links.md").write_text("[one](a)\n[two](b)\n")
    other = {"responses_create_params": SUM["responses_create_params"], "question": "1 + 1"}
    (tmp_path / "other.jsonl").write_text("".join(f"{json.dumps(other)}\n" for _ in range(30)))
    (tmp_path / "model").mkdir()
    (tmp_path / "weightless").mkdir()
    (tmp_path / "weightless" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # As on a machine without GPUs, whatever this one has.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def entries(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def filled(text: str, folder: Path, port: int) -> str:
    return text.replace("{folder}", str(folder)).replace("{port}", str(port))


@pytest.mark.parametrize(("command", "arguments", "says"), TABLE)
def test_a_mistake_is_told_at_once_and_nothing_is_left_of_it(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    folder: Path,
    port: int,
    command: str,
    arguments: str,
    says: str,
) -> None:
    words = [command, "config.yaml", *filled(arguments, folder, port).split()]
    monkeypatch.setattr(sys, "argv", ["gym-ray", *words])
    before = entries(folder)
    began = time.process_time()

    with pytest.raises(SystemExit) as ended:
        main()

    assert time.process_time() - began < SECONDS
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert filled(says, folder, port) in err
    assert "Traceback" not in err
    assert "starting" not in err
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
    assert entries(folder) == before


#: Runs the command line, then says what it imported of what takes seconds to import.
PROGRAM = """
import sys
from gym_ray.cli.main import main
sys.argv = ["gym-ray", *sys.argv[1:]]
try:
    main()
finally:
    print(sorted({"ray", "torch", "vllm"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("collect", "policy.engine_args.max_modle_len=3"),
        ("collect", "policy.model=./nomodel"),
        ("collect", "policy.resources.num_gpus=1"),
        ("collect", "environments.math.agent=tool_calling policy.model=acme/nothing"),
        ("collect", "collect.input=other.jsonl"),
        ("serve", "serve.port={port}"),
    ],
)
def test_from_the_first_instruction_on_a_mistake_takes_no_engine(
    folder: Path, port: int, command: str, arguments: str
) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # Nobody listens there.
        "HF_HOME": str(folder / "hub"),
    }
    words = [command, "config.yaml", *filled(arguments, folder, port).split()]
    before, began = children_seconds(), time.monotonic()

    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert children_seconds() - before < SECONDS
    # Of what waits, an engine or half a minute of tries, it does neither.
    assert time.monotonic() - began < 10 * SECONDS * PATIENCE
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == "[]\n"
    assert not (folder / "runs").exists()


def children_seconds() -> float:
    """Computing time of the processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_finished_run_asks_nothing_of_the_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["collect", "config.yaml", "collect.input=other.jsonl", "collect.max_failed_share=1"]
    for more in ([], ["policy.resources.num_gpus=1"]):
        monkeypatch.setattr(sys, "argv", ["gym-ray", *words, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0, capfd.readouterr().err
    assert "30 rollouts expected" in capfd.readouterr().out


def test_of_a_vllm_that_the_table_does_not_know_nothing_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_engine_args({"max_model_len": 3})
    with pytest.raises(ConfigError):
        check_engine_args({"max_modle_len": 3})

    installed = folder / "site" / "vllm-99.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 99.0\n")
    monkeypatch.syspath_prepend(str(folder / "site"))

    check_engine_args({"max_modle_len": 3})
    with pytest.raises(ConfigError, match=r"vLLM 0\.32\.0 has no such argument"):
        check_engine_args({"max_modle_len": 3}, KnownArguments.of_table())
    with pytest.raises(ConfigError, match=r"set policy\.model instead"):
        check_engine_args({"model": "x"})


def test_what_lies_on_the_nodes_of_a_cluster_is_left_to_them(
    folder: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = load_config(
        "config.yaml",
        [
            "policy.model=./nomodel",
            "policy.resources.num_gpus=4",
            "environments.math.agent=external",
            "environments.math.external.command=[no-such-program]",
            f"serve.port={port}",
        ],
    )
    with pytest.raises(ConfigError):
        check_application(missing, listens=True)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")

    check_application(missing, listens=True)

    with pytest.raises(ConfigError, match="4 GPU"):
        check_application(missing, listens=True, local=True)
    for wrong in ("policy.engine_args.max_modle_len=3", "policy.model=bundled:foo"):
        with pytest.raises(ConfigError):
            check_application(load_config("config.yaml", [wrong]), listens=True)
