"""TRL trains on the SFT and DPO exports of a real collection, by the page's code.

Every file format, one optimizer step each, and what the step learned from.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

import gym_ray
from gym_ray.renderers import load_renderer
from gym_ray.renderers.chatml import ChatMLRenderer
from gym_ray.renderers.chatml_template import chatml_config_matching
from tests import training

Row = dict[str, Any]

#: What a token that is not learned from has as its label.
IGNORED = -100


@pytest.fixture(scope="module", params=[False, True], ids=["jsonl", "parquet"])
def trained(
    demo: Path, brief_checkpoint: Path, request: pytest.FixtureRequest
) -> dict[str, Any]:
    """What the page's code leaves behind: the trainers, after their step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(demo)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", demo / "cache")
        return training.run_code("Train with TRL", brief_checkpoint, parquet=request.param)


def test_x(trained, demo):
    for n in ("sft", "dpo"):
        t = trained[n]
        print(t.state.log_history, t.train_dataset)
