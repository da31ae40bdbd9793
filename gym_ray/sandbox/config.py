"""The `sandbox` section among an environment's params."""

from __future__ import annotations

import os
import tempfile
from typing import Literal

from pydantic import Field

from gym_ray.config.section import Section


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0))


class SandboxConfig(Section):
    """Which sandbox, and how much of it."""

    provider: Literal["auto", "sandlock", "bubblewrap", "unsafe"] = "auto"
    """`auto` takes sandlock, else bubblewrap; `unsafe` is a plain process, no sandbox."""
    allow_unsafe: bool = False
    """Needed for `unsafe`; with `auto`, permits it where no sandbox works."""
    concurrency: int = Field(default_factory=_usable_cpus, ge=1)
    """Programs at once; others wait. The default is one per usable CPU."""
    directory: str = Field(default_factory=tempfile.gettempdir)
    """Where the programs' directories are made and removed."""
    readable: list[str] = Field(default_factory=list)
    """Paths a program may read beside the system's libraries and the interpreter."""
