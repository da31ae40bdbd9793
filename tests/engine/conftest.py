"""Engines under test, each started once: a start costs about 15 seconds of computing, so tests that
share one run in one process where there are several.

`bundled` is the real model, for numbers that mean something; `replica_one` and `replica_two`
serve the same two-layer model of random weights, for everything about the engine itself.
`demo` is a finished collection by that model, and its exports, for everything about training.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from xdist.scheduler import LoadFileScheduling

import gym_ray
from gym_ray.policies.bundled import resolve_model
from gym_ray.policies.vllm import VllmEngine
from tests import training
from tests.suite import PATIENCE

# Two processes run these tests, and their engines compute beside them: on few cores, threads that
# wait for each other would mostly spin.
torch.set_num_threads(1)

#: Files that share an engine or a collection with another one.
SHARED = {
    "test_guided_rollouts.py": "bundled",
    "test_logprobs.py": "bundled",
    "test_engine.py": "replicas",
    "test_processes.py": "replicas",
    "test_grpo.py": "demo",
    "test_nemo_rl_shapes.py": "demo",
    "test_trl.py": "demo",
}

CALL_SECONDS = 100.0 * PATIENCE

Run = Callable[..., Any]


class ByEngine(LoadFileScheduling):
    """Files that share something are run by the same process."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return SHARED.get(Path(file).name, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByEngine:
    return ByEngine(config, log)


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """Run a coroutine on the loop all engines live on, within a deadline."""
    with asyncio.Runner() as runner:

        def bounded(coroutine: Coroutine[Any, Any, Any]) -> Any:
            return runner.run(asyncio.wait_for(coroutine, CALL_SECONDS))

        yield bounded


@pytest.fixture(scope="session")
def bundled_checkpoint() -> Path:
    return Path(resolve_model("bundled:smollm2-135m"))


@pytest.fixture(scope="session")
def tokenizer(bundled_checkpoint: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_checkpoint)


@pytest.fixture(scope="session")
def reference(bundled_checkpoint: Path) -> Any:
    """The real model as plain `transformers` runs it, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(bundled_checkpoint, dtype=torch.float32).eval()


WriteModel = Callable[..., Path]


@pytest.fixture(scope="session")
def write_model(bundled_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> WriteModel:
    """Write a Llama of two layers and random weights, with the bundled model's tokenizer."""

    def write(seed: int = 0, **changes: Any) -> Path:
        from transformers import LlamaConfig, LlamaForCausalLM

        directory = tmp_path_factory.mktemp("tiny")
        torch.manual_seed(seed)
        sizes = {
            "vocab_size": 49152,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).save_pretrained(directory)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(bundled_checkpoint / name, directory)
        return directory

    return write


@pytest.fixture(scope="session")
def tiny_checkpoint(write_model: WriteModel) -> Path:
    return write_model()


@pytest.fixture(scope="session")
def start_engine(run: Run) -> Callable[..., Iterator[VllmEngine]]:
    """What fixtures with an engine of their own yield from."""

    def start(model: str, **engine_args: Any) -> Iterator[VllmEngine]:
        yield from _started(run, model, **engine_args)

    return start


@pytest.fixture(scope="session")
def brief_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, ending a turn after some ten tokens, where random weights alone never would.

    Every token's embedding shares a direction, and the head's row of `<|im_end|>` points there.
    """
    from transformers import AutoModelForCausalLM

    directory = tmp_path_factory.mktemp("brief") / "checkpoint"
    shutil.copytree(tiny_checkpoint, directory)
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    shared = torch.ones(model.config.hidden_size) / model.config.hidden_size**0.5
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings += shared * embeddings.norm(dim=-1).mean()
        model.lm_head.weight[model.config.eos_token_id] = shared * 1.6
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def demo(brief_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/demo`, collected by the real engine, and its `exports`."""
    folder = tmp_path_factory.mktemp("demo")
    path = folder / "demo.yaml"
    path.write_text(yaml.safe_dump(training.config(brief_checkpoint, folder)))
    summary = gym_ray.collect(path)
    assert (summary.failed, summary.pending) == (0, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        training.export_all()
    return folder


@pytest.fixture(scope="session")
def bundled(run: Run) -> Iterator[VllmEngine]:
    yield from _started(run, "bundled:smollm2-135m", max_model_len=1024, max_num_seqs=32)


@pytest.fixture(scope="session")
def replica_one(run: Run, tiny_checkpoint: Path) -> Iterator[VllmEngine]:
    yield from _started(run, str(tiny_checkpoint), max_model_len=8192, max_num_seqs=2)


@pytest.fixture(scope="session")
def replica_two(run: Run, tiny_checkpoint: Path) -> Iterator[VllmEngine]:
    yield from _started(
        run,
        str(tiny_checkpoint),
        max_model_len=8192,
        max_num_seqs=2,
        scheduling_policy="priority",
    )


def _started(run: Run, model: str, **engine_args: Any) -> Iterator[VllmEngine]:
    engine = VllmEngine(
        model=model,
        engine_args={"dtype": "float32", "kv_cache_memory_bytes": 512 * 1024**2, **engine_args},
        cpu_threads=1,
    )
    run(engine.start())
    yield engine
    run(engine.stop())
