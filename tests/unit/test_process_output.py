"""Why an engine's process died, from what it wrote."""

import os
import subprocess
import sys
from pathlib import Path

from gym_ray.policies.process_output import errors_in

NUMA = "ImportError('libnuma.so.1: cannot open shared object file: No such file or directory')"

#: As vLLM 0.32 wrote it where libnuma was missing, shortened.
NO_LIBNUMA = f"""\
(EngineCore pid=17) INFO 11-30 17:08:08 [core.py:133] Initializing a V1 LLM engine (v0.32.0)
(EngineCore pid=17) WARNING 11-30 17:08:09 [cpu.py:661] Failed to import from vllm._C_AVX2: {NUMA}
(EngineCore pid=17) ERROR 11-30 17:08:20 [core.py:1520] EngineCore failed to start.
(EngineCore pid=17) ERROR 11-30 17:08:20 [core.py:1520] Traceback (most recent call last):
(EngineCore pid=17) ERROR 11-30 17:08:20 [core.py:1520]   File "core.py", line 1490, in run
(EngineCore pid=17) ERROR 11-30 17:08:20 [core.py:1520]     raise ValueError(f"{{x}}")
(EngineCore pid=17) ERROR 11-30 17:08:20 [core.py:1520] AttributeError: '_C' has no 'init_cpu'
Process EngineCore:
Traceback (most recent call last):
  File "process.py", line 314, in _bootstrap
\x1b[1;31mAttributeError: '_C' has no 'init_cpu'\x1b[0m
"""


def test_the_cause_comes_first_and_nothing_twice() -> None:
    first, last = errors_in(NO_LIBNUMA)

    assert first == f"Failed to import from vllm._C_AVX2: {NUMA}"
    assert last == "AttributeError: '_C' has no 'init_cpu'"


def test_of_many_errors_the_first_and_the_last_are_told() -> None:
    text = "\n".join(f"pkg.mod.Some{n}Error: no {n}" for n in range(9))

    assert errors_in(text) == [f"pkg.mod.Some{n}Error: no {n}" for n in (0, 7, 8)]


def test_what_only_mentions_an_error_is_none() -> None:
    text = """\
(EngineCore pid=17) INFO 11-30 17:08:08 [core.py:133] retrying after OSError('busy')
    raise ValueError("no")
the last ValueError: of the line
0 errors, 1 Exception
"""
    assert errors_in(text) == []


def test_errors_without_a_message_and_crashes_of_the_interpreter_count() -> None:
    text = (
        "Fatal Python error: Segmentation fault\nKeyboardInterrupt\ntorch.OutOfMemoryError: 3 GiB"
    )

    assert errors_in(text) == text.splitlines()


def output_of(code: str, log: Path) -> str:
    """What a program says that has a process below it; the standard error of both is a file."""
    program = f"""
import subprocess, sys
from gym_ray.policies.process_output import ProcessOutput
print("ValueError: an old one", file=sys.stderr, flush=True)
output = ProcessOutput()
subprocess.run([sys.executable, "-c", {code!r}])
print(output.cause(RuntimeError("failed: {{'Core': -9, 'Other': 1}}")))
"""
    with log.open("wb") as stderr:
        command = [sys.executable, "-c", program]
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60
        ).stdout


def test_what_a_process_wrote_since_is_the_cause_and_its_file_is_named(tmp_path: Path) -> None:
    log = tmp_path / "worker.err"

    assert output_of("import no_such_module", log) == (
        "ModuleNotFoundError: No module named 'no_such_module' "
        f"(all of it: {os.path.realpath(log)})\n"
    )


def test_of_a_process_that_wrote_nothing_its_signal_is_told(tmp_path: Path) -> None:
    log = tmp_path / "worker.err"

    assert output_of("import os; os.kill(os.getpid(), 9)", log) == (
        "RuntimeError: failed: {'Core': SIGKILL, 'Other': 1}; none wrote an error, as one that is "
        f"killed does not (all of it: {os.path.realpath(log)})\n"
    )
