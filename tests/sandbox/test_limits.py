"""What a program may use, however it goes about it."""

from __future__ import annotations

import os
import time

import pytest

from gym_ray.sandbox import Sandbox
from gym_ray.sandbox.program import MEBIBYTE
from tests.sandbox.programs import nothing_left, run

CHILDREN = """
import os, sys, time
def children(count, deed):
    for _ in range(count):
        if os.fork() == 0:
            deed()
            os._exit(0)
"""


def test_a_busy_loop_ends_at_its_cpu_time(sandbox: Sandbox) -> None:
    result = run(sandbox, "while True: pass", cpu_seconds=0.5)
    assert (result.limit, result.signal) == ("cpu", 9)
    assert 0.4 < result.cpu_seconds < 2


def test_cpu_time_of_children_counts(sandbox: Sandbox) -> None:
    code = CHILDREN + "children(4, lambda: exec('while True: pass')); time.sleep(60)"
    result = run(sandbox, code, cpu_seconds=1.0)
    assert result.limit == "cpu"


def test_sleeping_costs_wall_time_and_no_cpu_time(sandbox: Sandbox) -> None:
    result = run(sandbox, "import time; time.sleep(60)", wall_seconds=1.0)
    assert result.limit == "wall"
    assert 1.0 <= result.wall_seconds < 5
    assert result.cpu_seconds < 0.8


def test_a_memory_bomb_of_one_process_is_stopped(sandbox: Sandbox) -> None:
    result = run(sandbox, "x = []\nwhile True: x.append(bytearray(1 << 20))")
    assert not result.is_success
    assert result.memory_peak_bytes < 160 * MEBIBYTE


def test_a_huge_allocation_fails(sandbox: Sandbox) -> None:
    assert not run(sandbox, "bytearray(1 << 40)").is_success


def test_many_small_processes_share_one_memory_limit(sandbox: Sandbox) -> None:
    code = CHILDREN + (
        "def deed():\n    x = bytearray(b'x') * (40 << 20); time.sleep(60)\n"
        "children(8, deed)\ntime.sleep(60)"
    )
    result = run(sandbox, code)
    assert result.limit == "memory"
    assert result.memory_peak_bytes < 320 * MEBIBYTE


def test_shared_memory_counts_once_and_counts(sandbox: Sandbox) -> None:
    code = CHILDREN + (
        "import mmap\nm = mmap.mmap(-1, {size} << 20)\nm[:] = b'x' * len(m)\n"
        "children(5, lambda: (sum(m[::4096]), time.sleep(0.5)))\n"
        "for _ in range(5): os.wait()"
    )
    assert run(sandbox, code.replace("{size}", "40")).is_success
    assert not run(sandbox, code.replace("{size}", "200"), memory_bytes=220 * MEBIBYTE).is_success


def test_a_fork_bomb_is_stopped_and_leaves_nothing(
    sandbox: Sandbox, sandbox_directory: str
) -> None:
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n# fork-bomb-mark"
    result = run(sandbox, code, wall_seconds=1.5)
    assert not result.is_success
    nothing_left(sandbox_directory, "fork-bomb-mark")


def test_no_more_processes_than_allowed_run_at_once(sandbox: Sandbox) -> None:
    code = """
import os, time
started = 0
try:
    for _ in range(100):
        if os.fork() == 0:
            time.sleep(60); os._exit(0)
        started += 1
except OSError:
    pass
print(started)
"""
    result = run(sandbox, code)
    assert result.limit == "processes" or int(result.stdout) <= 12


def test_threads_count_as_processes(sandbox: Sandbox) -> None:
    code = """
import threading, time
for number in range(100):
    threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
time.sleep(2)
print("all")
"""
    assert run(sandbox, code).stdout != b"all\n"


@pytest.mark.parametrize("descriptor", [1, 2])
def test_a_flood_of_output_is_cut_and_ended(sandbox: Sandbox, descriptor: int) -> None:
    code = f"import os\nwhile True: os.write({descriptor}, b'flood' * 2000)"
    result = run(sandbox, code)
    assert result.limit == "output"
    assert len((result.stdout, result.stderr)[descriptor - 1]) == 65536
    assert (result.stdout_truncated, result.stderr_truncated) == (descriptor == 1, descriptor == 2)


def test_output_up_to_the_limit_is_whole(sandbox: Sandbox) -> None:
    result = run(sandbox, "import sys; sys.stdout.write('x' * 65536)")
    assert result.is_success
    assert result.stdout == b"x" * 65536
    assert not result.stdout_truncated


def test_a_file_grows_no_larger_than_allowed(sandbox: Sandbox) -> None:
    code = """
import os
size = 0
with open("big", "wb", buffering=0) as file:
    try:
        while size < 1 << 26:
            size += file.write(b"x" * 65536)
    except OSError:
        pass
print(os.path.getsize("big"))
"""
    assert int(run(sandbox, code).stdout) == 2 * MEBIBYTE


def test_all_files_together_have_a_limit(sandbox: Sandbox) -> None:
    code = """
import time
for number in range(60):
    with open(f"file{number}", "wb") as file:
        file.write(b"x" * (1 << 20))
    time.sleep(0.02)
time.sleep(5)
"""
    assert run(sandbox, code).limit == "disk"


def test_deleted_files_that_are_open_count(sandbox: Sandbox) -> None:
    code = """
import os, time
kept = []
for number in range(20):
    kept.append(open("file", "wb", buffering=0))
    os.unlink("file")
    kept[-1].write(b"x" * (1 << 20))
time.sleep(5)
"""
    assert run(sandbox, code).limit == "disk"


def test_deleted_files_that_are_mapped_count(sandbox: Sandbox) -> None:
    code = """
import mmap, os, time
kept = []
for number in range(20):
    with open('big', 'w+b') as file:
        file.write(bytes(1 << 20))
        file.flush()
        kept.append(mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ))
    os.unlink('big')
time.sleep(5)
"""
    assert run(sandbox, code).limit == "disk"


def test_what_waits_in_sockets_counts(sandbox: Sandbox) -> None:
    code = """
import resource, socket, time
pairs = []
for number in range(12):
    pair = socket.socketpair()
    pair[0].setblocking(False)
    try:
        while True:
            pair[0].send(bytes(1 << 16))
    except BlockingIOError:
        pairs.append(pair)
time.sleep(5)
"""
    held = 24 * 212_992
    assert run(sandbox, code, memory_bytes=held, open_files=64).limit == "memory"


def test_a_loop_of_asyncio_runs(sandbox: Sandbox) -> None:
    code = "import asyncio; asyncio.run(asyncio.sleep(0.01)); print('ran')"
    assert run(sandbox, code).stdout == b"ran\n"


def test_the_number_of_files_has_a_limit(sandbox: Sandbox) -> None:
    code = "import time\nfor n in range(5000): open(f'f{n}', 'w').close()\ntime.sleep(5)"
    assert run(sandbox, code).limit == "files"


def test_files_too_deep_to_look_at_are_no_hiding_place(
    sandbox: Sandbox, sandbox_directory: str
) -> None:
    code = """
import os, time
for _ in range(40):
    os.mkdir("d" * 250)
    os.chdir("d" * 250)
time.sleep(5)
"""
    assert run(sandbox, code).limit == "files"
    nothing_left(sandbox_directory, "no such mark")


def test_open_files_have_a_limit(sandbox: Sandbox) -> None:
    code = "import os\nkept = [open('/dev/null') for _ in range(100)]"
    result = run(sandbox, code)
    assert result.exit_code == 1
    assert b"Too many open files" in result.stderr


def test_deep_recursion_costs_only_itself(sandbox: Sandbox) -> None:
    code = "import sys; sys.setrecursionlimit(10**9)\ndef f(): return f() + 1\nf()"
    assert not run(sandbox, code).is_success
    assert run(sandbox, "print(1)").stdout == b"1\n"


def test_the_program_yields_to_other_work(sandbox: Sandbox) -> None:
    code = "import os, time; time.sleep(0.3); print(os.getpriority(os.PRIO_PROCESS, 0))"
    assert int(run(sandbox, code).stdout) >= min(19, os.nice(0) + 10)


def test_a_limit_does_not_outlast_its_program(sandbox: Sandbox) -> None:
    started = time.monotonic()
    for _ in range(3):
        assert run(sandbox, "while True: pass", wall_seconds=0.3).limit == "wall"
    assert time.monotonic() - started < 15
    assert run(sandbox, "print('fine')").stdout == b"fine\n"
