"""GPUs are counted as Ray counts them, without Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from gym_ray.serving.gpus import gpus_here

ROOT = Path(__file__).parents[2]

#: NVIDIA's management library on a machine with three GPUs, as far as it is asked.
LIBRARY = """
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
"""

#: What both say of each value of `CUDA_VISIBLE_DEVICES`; the last is none.
PROGRAM = """
import json, os, sys
from gym_ray.serving.gpus import gpus_here
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
found = []
for value in json.loads(sys.argv[1]):
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if value is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = value
    ours = gpus_here()
    found.append([ours, ResourceAndLabelSpec._get_current_node_accelerator(None, {})[1]])
print(json.dumps(found))
"""

VISIBLE = [None, "", "NoDevFiles", "0", "0,2", "GPU-8932f937,GPU-1122aabb", "0,1,2,3,4"]


def both_say(**environment: str) -> list[list[int | None]]:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(VISIBLE)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[list[int | None]] = json.loads(said.stdout)
    return found


def test_gpus_are_counted_as_ray_counts_them(tmp_path: Path) -> None:
    (tmp_path / "nvml.c").write_text(LIBRARY)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", "libnvidia-ml.so.1", "nvml.c"], cwd=tmp_path, check=True
    )

    found = both_say(LD_LIBRARY_PATH=str(tmp_path))

    assert found == [[count, count] for count in (3, 0, 0, 1, 2, 2, 3)]


def test_what_somebody_told_ray_is_not_counted() -> None:
    assert gpus_here({"RAY_OVERRIDE_RESOURCES": '{"GPU": 4}'}) is None
    assert gpus_here({"CUDA_VISIBLE_DEVICES": ""}) == 0
