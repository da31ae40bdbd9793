"""How many GPUs Ray would find on this machine, known without starting or importing it.

It counts as Ray does: by NVIDIA's management library and `CUDA_VISIBLE_DEVICES`. Where there may be
GPUs of another make, or somebody told Ray what it has, nothing is known here, and Ray is asked once
it runs.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Mapping

#: By which Ray is told what a machine has.
_RAY_OVERRIDE = "RAY_OVERRIDE_RESOURCES"

#: Devices of AMD's and MetaX's drivers, and the library by which Ray finds Intel's.
_OTHER_DEVICES = ("/dev/kfd", "/dev/mxcd")
_INTEL_LIBRARY = "dpctl"


def gpus_here(variables: Mapping[str, str] = os.environ) -> int | None:
    """GPUs of this machine that Ray would use; None where that cannot be known."""
    if variables.get(_RAY_OVERRIDE) or sys.platform != "linux":
        return None
    if any(map(os.path.exists, _OTHER_DEVICES)) or importlib.util.find_spec(_INTEL_LIBRARY):
        return None
    count = _nvidia_gpus()
    visible = variables.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    named = [] if visible in ("", "NoDevFiles") else visible.split(",")
    return min(count, len(named))


def _nvidia_gpus() -> int:
    """What NVIDIA's driver has; 0 without one."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        if library.nvmlInit_v2() != 0:
            return 0
        try:
            count = ctypes.c_uint()
            failed = library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0
            return 0 if failed else count.value
        finally:
            library.nvmlShutdown()
    except (OSError, AttributeError):
        return 0
