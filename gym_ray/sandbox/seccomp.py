"""System calls that no sandboxed program needs, and a filter that refuses them.

What programs may do to themselves and not to others (limits, priorities, processors) is refused
by its arguments. What changes a file's attributes is refused where programs run as somebody who
owns files: no file rule of the kernel covers it.

Owned here: the filter as classic BPF (linux/seccomp.h). It stands beside namespaces and file
rules, which do the main work: it takes the kernel's rarely used and memory-hiding parts away.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

#: Numbers on x86-64 and on aarch64; None where an architecture has no such call.
_CALLS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    # Descriptors on their way in a message: files and memory that no process shows.
    "sendmsg": (46, 211), "sendmmsg": (307, 269),
    # Memory that no process's size shows.
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    # Other processes.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438), "kcmp": (312, 272),
    # Namespaces and mounts.
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    # Large and rarely used parts of the kernel.
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "open_by_handle_at": (304, 265), "fanotify_init": (300, 262), "inotify_init1": (294, 26),
    "inotify_init": (253, None), "inotify_add_watch": (254, 27),
    "personality": (135, 92), "kexec_load": (246, 104), "init_module": (175, 105),
    "finit_module": (313, 273), "syslog": (103, 116), "quotactl": (179, 60),
    "swapon": (167, 224), "acct": (163, 89), "reboot": (169, 142), "iopl": (172, None),
}  # fmt: skip

#: Names of the refused calls that another filter (sandlock's) knows too.
_UNKNOWN_TO_OTHERS = ("sendmsg", "sendmmsg")
REFUSED = tuple(
    name for name in _CALLS if name not in ("socket", "fsmount", "iopl", *_UNKNOWN_TO_OTHERS)
)

#: Names of the calls that change attributes of files, outside of the program's folder too: those
#: that take a right to write, which others may have given to everybody, and those of owners.
WRITERS_ATTRIBUTES = (
    "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
    "setxattrat", "removexattrat", "file_setattr",
)  # fmt: skip
OWNERS_ATTRIBUTES = (
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat",
    "utime", "utimes", "futimesat", "utimensat",
)  # fmt: skip

#: Calls about a process, and the arguments, by position, with which they are about the caller.
_OF_ITSELF: dict[str, tuple[tuple[int, int], dict[int, int]]] = {
    "prlimit64": ((302, 261), {0: 0}),
    "setpriority": ((141, 140), {0: 0, 1: 0}),
    "sched_setaffinity": ((203, 122), {0: 0}),
    "sched_setscheduler": ((144, 119), {0: 0}),
    "sched_setparam": ((142, 118), {0: 0}),
    "sched_setattr": ((314, 274), {0: 0}),
    "ioprio_set": ((251, 30), {0: 1, 1: 0}),
}

# Machine: column of the table, AUDIT_ARCH, numbers of clone and clone3.
_MACHINES = {"x86_64": (0, 0xC000003E, 56, 435), "aarch64": (1, 0xC00000B7, 220, 435)}

_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL_PROCESS, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_NEW = 0x7E020080  # CLONE_NEW{TIME,NS,CGROUP,UTS,IPC,USER,PID,NET}
_X32 = 0x40000000

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2


def why_not() -> str | None:
    """Why there is no filter for this machine; None when there is."""
    if platform.machine() in _MACHINES:
        return None
    return f"no system-call filter is written for {platform.machine()}"


def program_filter() -> bytes:
    """The whole filter, as `bwrap --seccomp` reads it."""
    return _filter(tuple(_CALLS), refuse_namespaces=True, refuse_others=True)


def refuse_sockets() -> None:
    """Take `socket` away from this process and from all it will start, for good."""
    _install(_filter(("socket",), refuse_namespaces=False))


def refuse_others() -> None:
    """Take calls about other processes, and what sandlock needs itself until the program starts,
    away from this thread and from all it will start.
    """
    _install(_filter(_UNKNOWN_TO_OTHERS, refuse_namespaces=False, refuse_others=True))


def _filter(
    names: tuple[str, ...], *, refuse_namespaces: bool, refuse_others: bool = False
) -> bytes:
    column, architecture, clone, clone3 = _MACHINES[platform.machine()]
    permission, missing = _REFUSE | errno.EPERM, _REFUSE | errno.ENOSYS
    code = [
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, 0),  # seccomp_data.nr
        (_AT_LEAST, 0, 1, _X32),  # x32 calls, which have numbers of their own
        (_RETURN, 0, 0, missing),
    ]
    for name in names:
        number = _CALLS[name][column]
        if number is not None:
            code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, permission)]
    for numbers, own in _OF_ITSELF.values() if refuse_others else ():
        code.append((_EQUAL, 0, 3 * len(own) + 1, numbers[column]))
        for position, value in own.items():
            code += [
                (_LOAD, 0, 0, 16 + 8 * position),  # seccomp_data.args, low word
                (_EQUAL, 1, 0, value),
                (_RETURN, 0, 0, permission),
            ]
        code.append((_RETURN, 0, 0, _ALLOW))
    if refuse_namespaces:
        # clone3 has its flags in memory, out of a filter's sight; libraries fall back to clone.
        code += [(_EQUAL, 0, 1, clone3), (_RETURN, 0, 0, missing)]
        code += [
            (_EQUAL, 0, 3, clone),
            (_LOAD, 0, 0, 16),  # seccomp_data.args[0], low word
            (_ANY_BIT, 0, 1, _CLONE_NEW),
            (_RETURN, 0, 0, permission),
        ]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _install(code: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Filter(len(code) // 8, code)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "no system-call filter can be installed")
