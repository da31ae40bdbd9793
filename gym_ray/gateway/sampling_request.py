"""What clients may wish of sampling, and what of it a policy here can honor.

A wish that would change what is sampled and cannot be honored is refused by name: an answer
drawn from another distribution than asked for is worse than none. Unknown fields that change
nothing are ignored, as OpenAI's clients send more of them every year.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import ConfigDict, Field

from gym_ray.gateway.backend import PolicyBackend
from gym_ray.gateway.errors import bad_request
from gym_ray.json_schema import schema_problem
from gym_ray.sampling import Sampling

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]

#: Most choices of one request, prompts times `n`.
MAX_CHOICES = 128
#: Larger schemas take seconds to check and to compile to a grammar.
_MAX_SCHEMA_CHARACTERS = 65_536

#: Fields that cannot be honored, and the values of them that wish for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "allowed_token_ids": (),
    "audio": (),
    "background": (False,),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "conversation": (),
    "documents": ([],),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "logits_processors": ([],),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "prediction": (),
    "presence_penalty": (0,),
    "previous_response_id": (),
    "prompt": (),
    "prompt_embeds": (),
    "prompt_logprobs": (0,),
    "reasoning_effort": (),
    "repetition_penalty": (1,),
    "structured_outputs": (),
    "suffix": ("",),
    "truncate_prompt_tokens": (),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "web_search_options": (),
}

_ADVICE = {
    "background": "wait for the answer, or stream it",
    "chat_template_kwargs": "choose the template with policy.renderer",
    "conversation": "responses are not stored here: send the whole conversation as input",
    "function_call": "use tool_choice",
    "functions": "use tools",
    "guided_json": "use response_format",
    "previous_response_id": (
        "responses are not stored here: send the whole conversation as input, with the output "
        "items of earlier responses in it"
    ),
    "structured_outputs": "use response_format",
}


class SamplingFields(pydantic.BaseModel):
    """What completions, chat completions and responses have in common."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), use_attribute_docstrings=True)

    model: str | None = None
    """Name as in `/v1/models`, or none; in a session any."""
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)
    """Number of most likely tokens kept; 0 and -1 keep all."""
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Text | list[Text] | None = None
    """Texts that end the answer, which is given without them."""
    stop_token_ids: list[TokenId] | None = Field(None, max_length=1024)
    stream: bool | None = False
    return_token_ids: bool | None = False
    """Whether the answer carries its token IDs, in vLLM's fields and NeMo Gym's."""
    return_tokens_as_token_ids: bool | None = False
    """Whether tokens of `logprobs` read `token_id:N`."""
    top_logprobs: int | None = None
    """Only 0: logprobs are those of the sampled tokens."""
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def engine_seed(self, index: int) -> int | None:
        """Seed of one choice: choices of one request differ."""
        return None if self.seed is None else (self.seed + index) % 2**63


class StreamOptions(pydantic.BaseModel):
    """How a stream ends."""

    include_usage: bool | None = False


class JsonSchema(pydantic.BaseModel):
    """The schema of `response_format`."""

    name: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(pydantic.BaseModel):
    """`response_format` of chat completions and completions."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


def sampling_of(
    fields: SamplingFields,
    defaults: Sampling,
    *,
    max_output_tokens: int | None,
    structural_tag: str | None = None,
) -> Sampling:
    """The distribution a request asks for.

    Args:
        fields: the request.
        defaults: of the policy, for what the request leaves open.
        max_output_tokens: as the request's own field for it says.
        structural_tag: what guides decoding.

    Raises:
        ApiError: 400, it asks for what cannot be honored.
    """
    refuse_what_cannot_be_honored(fields.model_extra or {})
    if fields.top_logprobs:
        raise bad_request(
            "top_logprobs may only be 0: logprobs are those of the sampled tokens",
            param="top_logprobs",
        )
    changes: dict[str, Any] = {"stop": fields.stops, "structural_tag": structural_tag}
    if fields.temperature is not None:
        changes["temperature"] = fields.temperature
    if fields.top_p is not None:
        changes["top_p"] = fields.top_p
    if fields.top_k is not None:
        changes["top_k"] = fields.top_k if fields.top_k > 0 else None
    if max_output_tokens is not None:
        changes["max_output_tokens"] = max_output_tokens
    return dataclasses.replace(defaults, **changes)


def refuse_what_cannot_be_honored(extra: Mapping[str, Any]) -> None:
    """Raises `ApiError` 400 that names the first such field.

    Args:
        extra: fields of a request that its model does not know.
    """
    for name, value in extra.items():
        neutral = _REFUSED.get(name)
        if value is None or neutral is None or value in neutral:
            continue
        advice = _ADVICE.get(name, "leave it out")
        raise bad_request(f"{name} is not supported: {advice}", param=name)


def check_stop_tokens(policy: PolicyBackend, fields: SamplingFields) -> None:
    """Raises `ApiError` 400 when stop tokens are asked of a policy that takes no token IDs."""
    if fields.stop_token_ids and policy.renderer is None:
        raise bad_request(
            "stop_token_ids need a policy that speaks tokens; use stop", param="stop_token_ids"
        )


def json_tag(format_: ResponseFormat | None) -> str | None:
    """The structural tag of a `response_format`; None for free text.

    Raises:
        ApiError: 400, the schema is none.
    """
    if format_ is None or format_.type == "text":
        return None
    if format_.type == "json_object":
        return schema_tag({"type": "object"}, param="response_format")
    if format_.json_schema is None:
        raise bad_request("response_format needs json_schema", param="response_format.json_schema")
    return schema_tag(format_.json_schema.schema_, param="response_format.json_schema.schema")


def schema_tag(schema: dict[str, Any], *, param: str) -> str:
    """The structural tag of answers that are JSON of a schema.

    Args:
        schema: JSON schema.
        param: the request's field, for the error.

    Raises:
        ApiError: 400, the schema is none.
    """
    text = json.dumps(schema)
    if len(text) > _MAX_SCHEMA_CHARACTERS:
        raise bad_request(
            f"the schema has more than {_MAX_SCHEMA_CHARACTERS} characters", param=param
        )
    if problem := schema_problem(schema):
        raise bad_request(f"no JSON schema: {problem}", param=param)
    return (
        f'{{"type": "structural_tag", "format": {{"type": "json_schema", "json_schema": {text}}}}}'
    )
