"""Provider `unsafe`: a plain process under rlimits. NOT A SANDBOX.

The program can read and write whatever its user can, reach the network, and kill its user's
processes. It is for programs you trust as you trust your own, on machines where nothing else
works; a config must say `allow_unsafe: true`.
"""

from __future__ import annotations

import subprocess

from gym_ray.errors import one_line
from gym_ray.sandbox.program import ProviderFault
from gym_ray.sandbox.provider import Launch, RunningProcess, capped


def why_not() -> str | None:
    """What is missing to use it: nothing."""
    return None


class Unsafe:
    """Starts commands as they are."""

    def start(self, launch: Launch) -> RunningProcess:
        try:
            process = subprocess.Popen(
                capped(launch.command, launch.limits, tasks=None),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=launch.folder,
                env=dict(launch.environment),
                start_new_session=True,
            )
        except OSError as error:
            raise ProviderFault(f"the program cannot be started: {one_line(error)}") from error
        return RunningProcess(process)
