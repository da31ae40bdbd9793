"""What no program may reach. Every attempt prints `GOT THROUGH` when it gets through."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

from gym_ray.sandbox import Sandbox
from tests.sandbox.conftest import Host
from tests.sandbox.programs import run

ATTEMPT = """
import ctypes, errno, glob, json, os, signal, socket, sys, threading
host = json.loads(sys.stdin.read())
libc = ctypes.CDLL(None, use_errno=True)

def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def call_number(number):
    return libc.syscall(number)

def connect(family, kind, address):
    with socket.socket(family, kind) as client:
        client.settimeout(1)
        client.connect(address)
        client.send(b"x")

try:
    ATTEMPT
except (OSError, AttributeError, ValueError, KeyError) as error:
    print("refused:", type(error).__name__, error)
else:
    print("GOT THROUGH")
"""

ATTEMPTS = {
    "read a file outside": "open(host['secret']).read()",
    "read a file outside over a relative path":
        "open('../' * 30 + host['secret'].lstrip('/')).read()",
    "read a file outside over a symlink":
        "os.symlink(host['secret'], 'link'); open('link').read()",
    "read a file outside over a symlinked folder":
        "os.symlink(host['folder'], 'link'); open('link/secret').read()",
    "read a file outside over a hard link": "os.link(host['secret'], 'link'); open('link').read()",
    "read a file outside over /proc/self/root":
        "open('/proc/self/root' + host['secret']).read()",
    "list a folder outside": "os.listdir(host['folder'])",
    "read /etc/shadow": "open('/etc/shadow').read()",
    "read /etc/passwd": "open('/etc/passwd').read()",
    "list /var": "os.listdir('/var')",
    "write a file outside": "open(host['folder'] + '/new', 'w').write('x')",
    "overwrite a file outside": "open(host['secret'], 'w').write('x')",
    "overwrite a file outside over a symlink":
        "os.symlink(host['secret'], 'link'); open('link', 'w').write('x')",
    "truncate a file outside": "os.truncate(host['secret'], 0)",
    "delete a file outside": "os.unlink(host['secret'])",
    "move a file outside": "os.rename(host['secret'], 'mine')",
    "make a folder outside": "os.mkdir(host['folder'] + '/new')",
    "make a symlink outside": "os.symlink('x', host['folder'] + '/new')",
    "change modes outside": "os.chmod(host['secret'], 0o600)",
    "change modes outside over the folder": "os.chmod(host['folder'], 0)",
    "change modes outside by another call": "call(452, -100, host['secret'].encode(), 0, 0)",
    "change owners outside": "os.chown(host['secret'], os.getuid(), os.getgid())",
    "change times outside": "os.utime(host['secret'], (1, 1))",
    "change attributes outside": "os.setxattr(host['secret'], 'user.a', b'b')",
    "limit a process outside":
        "import resource; resource.prlimit(host['victim'], resource.RLIMIT_CPU, (0, 0))",
    "limit its parent":
        "import resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
    "change the priority of a process outside":
        "os.setpriority(os.PRIO_PROCESS, host['victim'], 19)",
    "change the priority of everybody": "os.setpriority(os.PRIO_USER, 0, 19)",
    "move a process outside to one processor": "os.sched_setaffinity(host['victim'], {0})",
    "make a process outside idle":
        "os.sched_setscheduler(host['victim'], os.SCHED_IDLE, os.sched_param(0))",
    "change the scheduling of a process outside":
        "call(314, host['victim'], ctypes.create_string_buffer(b'\\x38\\0\\0\\0\\5', 56), 0)",
    "change the disk priority of a process outside": "call(251, 1, host['victim'], 3 << 13)",
    "watch a folder outside": "call(254, call_number(253), b'/tmp', 256)",
    "watch anything": "call(253)",
    "send a descriptor":
        "a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [0]); print('GOT THROUGH')",
    "write to /tmp": "open('/tmp/escaped-' + str(os.getpid()), 'w')",
    "write to /dev/shm": "open('/dev/shm/escaped-' + str(os.getpid()), 'w')",
    "write to /usr": "open('/usr/escaped', 'w')",
    "write to /": "open('/escaped', 'w')",
    "write to its parent directory": "open('../escaped', 'w')",
    "connect to a TCP port of the host":
        "connect(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', host['tcp']))",
    "send UDP to the host":
        "connect(socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', host['udp']))",
    "connect to the outside": "connect(socket.AF_INET, socket.SOCK_STREAM, ('1.1.1.1', 53))",
    "send UDP to the outside": "connect(socket.AF_INET, socket.SOCK_DGRAM, ('1.1.1.1', 53))",
    "use IPv6": "connect(socket.AF_INET6, socket.SOCK_DGRAM, ('::1', host['udp']))",
    "listen on a port": "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()",
    "open a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
    "open a packet socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "open a netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "connect to a unix socket": "connect(socket.AF_UNIX, socket.SOCK_STREAM, host['unix'])",
    "connect to an abstract socket":
        "connect(socket.AF_UNIX, socket.SOCK_STREAM, '\\0' + host['abstract'])",
    "signal a process outside": "os.kill(host['victim'], 9)",
    "look for a process outside": "os.kill(host['victim'], 0)",
    "read the environment of a process outside":
        "open(f\"/proc/{host['victim']}/environ\").read()",
    "read the memory of a process outside": "open(f\"/proc/{host['victim']}/mem\", 'rb')",
    "trace a process outside": "call(101, 16, host['victim'], 0, 0)",
    "trace itself": "call(101, 0, 0, 0, 0)",
    "read another process's memory":
        "call(310, host['victim'], None, 0, None, 0, 0)",
    "mount": "call(165, b'none', b'.', b'tmpfs', 0, None)",
    "bind-mount the root": "call(165, b'/', b'.', None, 4096, None)",
    "chroot": "os.chroot('.')",
    "unshare a user namespace": "call(272, 0x10000000)",
    "unshare a mount namespace": "call(272, 0x00020000)",
    "enter a namespace": "call(308, os.open('/proc/1/ns/mnt', os.O_RDONLY), 0)",
    "become root": "os.setuid(0); open('/etc/shadow').read()",
    "make a device": "os.mknod('device', 0o20666, os.makedev(1, 1))",
    "load BPF": "call(321, 0, None, 0)",
    "start io_uring": "call(425, 8, ctypes.create_string_buffer(256))",
    "use a key ring": "call(250, 0, -3, 0)",
    "hide memory in a memfd": "os.memfd_create('x')",
    "hide memory in System V segments": "call(29, 0, 1 << 20, 0o1600)",
    "open a file by handle": "call(304, -100, ctypes.create_string_buffer(64), 0)",
    "reboot": "call(169, 0xfee1dead, 672274793, 0x89ABCDEF, None)",
    "set the clock": "call(227, 0, ctypes.create_string_buffer(16))",
    "raise its own limits":
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))",
    "raise its own priority": "os.setpriority(os.PRIO_PROCESS, 0, -20)",
    "write kernel settings": "open('/proc/sys/kernel/hostname', 'w').write('x')",
}  # fmt: skip


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_program_cannot(sandbox: Sandbox, host: Host, attempt: str) -> None:
    # Other machines have other numbers for system calls, and would refuse the wrong ones.
    assert "call(" not in ATTEMPTS[attempt] or os.uname().machine == "x86_64"
    given = json.dumps(dataclasses.asdict(host)).encode()
    result = run(sandbox, ATTEMPT.replace("ATTEMPT", ATTEMPTS[attempt]), stdin=given)
    assert b"GOT THROUGH" not in result.stdout, result
    # It was tried and refused, or the program was killed for it.
    assert result.stdout.startswith(b"refused") or result.signal is not None, result


def test_a_program_sees_no_environment_variables_of_the_host(sandbox: Sandbox) -> None:
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    seen = json.loads(run(sandbox, code).stdout)
    extra = seen.keys() - {"PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE", "PWD"}
    assert {name for name in extra if "SANDLOCK" not in name} == set()
    assert seen["HOME"] == seen["TMPDIR"]


def test_a_program_inherits_no_descriptors(sandbox: Sandbox) -> None:
    code = """
import os
found = []
for number in range(3, 256):
    try:
        os.fstat(number)
    except OSError:
        continue
    found.append(number)
print(found)
"""
    assert run(sandbox, code).stdout == b"[]\n"


def test_a_program_has_no_privileges(sandbox: Sandbox) -> None:
    code = "import os, sys; sys.exit(os.geteuid() == 0 or os.getuid() == 0)"
    assert run(sandbox, code).is_success


def test_programs_do_not_see_each_others_files(sandbox: Sandbox) -> None:
    assert run(sandbox, "open('note', 'w').write('x')").is_success
    assert run(sandbox, "import os; print(os.listdir('.'))").stdout == b"['main.py']\n"
