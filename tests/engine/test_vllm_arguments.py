"""The table of vLLM's arguments that is read where importing vLLM takes too long is vLLM's."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import pytest
import vllm
from vllm.engine.arg_utils import AsyncEngineArgs

from gym_ray.errors import ConfigError
from gym_ray.policies.vllm_arguments import (
    TABLE,
    KnownArguments,
    check_engine_args,
    installed_version,
)

ROOT = Path(__file__).parents[2]

#: Of each kind of what the table says, values that vLLM refuses, and ones that it takes.
VALUES: list[tuple[str, Any, Any]] = [
    ("dtype", "flaot32", "float32"),
    ("enforce_eager", "perhaps", "true"),
    ("gpu_memory_utilization", 1.5, "0.5"),
    ("gpu_memory_utilization", 0, 1),
    ("kv_cache_dtype", "fp9", "auto"),
    ("max_logprobs", -2, -1),
    ("max_model_len", "long", "512"),
    ("max_model_len", 12.5, 512.0),
    ("max_num_seqs", "many", 8),
    ("revision", 7, "main"),
    ("seed", [1], 1),
    ("tensor_parallel_size", 0, 1),
]


def test_the_table_is_that_of_the_installed_vllm() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "write_vllm_arguments.py"))["text"]()

    assert TABLE.read_text() == made, "run scripts/write_vllm_arguments.py"
    assert KnownArguments.of_installed() is KnownArguments.of_table()
    assert vllm.__version__.partition("+")[0] == installed_version()


@pytest.mark.parametrize(("name", "wrong", "right"), VALUES)
def test_what_the_table_refuses_vllm_refuses(
    tiny_checkpoint: Path, name: str, wrong: Any, right: Any
) -> None:
    def configured(value: Any) -> None:
        AsyncEngineArgs(model=str(tiny_checkpoint), **{name: value}).create_engine_config()

    with pytest.raises(ConfigError, match=rf"policy\.engine_args\.{name}: "):
        check_engine_args({name: wrong})
    with pytest.raises((ValueError, TypeError)):
        configured(wrong)
    check_engine_args({name: right})
    configured(right)


def test_every_default_is_a_value_that_the_table_takes() -> None:
    known = KnownArguments.of_table()
    for field in dataclasses.fields(AsyncEngineArgs):
        if field.default is not dataclasses.MISSING and not field.name.startswith("_"):
            assert known.refusal(field.name, field.default) is None, field.name
