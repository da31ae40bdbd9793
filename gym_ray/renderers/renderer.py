"""The renderer an agent uses: messages to prompt tokens, and sampled tokens to a message.

Owned here: choosing the model family, and holding every family to the transcript's rule that a
turn's prompt starts with exactly the previous prompt and generation. A family that cannot keep
it raises `BridgeImpossible`; history is never re-tokenized behind the agent's back.

Not owned here: the families themselves. They come from the `renderers` library, our ChatML one
through its custom-renderer mechanism.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gym_ray.errors import ConfigError, one_line
from gym_ray.renderers.message_text import CuttingTokenizer, MessageText, control_names
from gym_ray.renderers.messages import AssistantMessage, Message, call_id_prefix
from gym_ray.renderers.token_bytes import TokenBytes
from gym_ray.renderers.tool_calls import readable_history, told_call
from gym_ray.turn import Tokens

if TYPE_CHECKING:
    from renderers.base import Renderer, Tokenizer
    from renderers.configs import BaseRendererConfig

CHATML = "chatml"
_CHATML_CLASS = "gym_ray.renderers.chatml.ChatMLRenderer"
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+|.+:[A-Za-z_]\w*")

#: Families that encode messages without the tokenizer they are given, text as text.
ENCODE_THEMSELVES = frozenset({"gpt-oss"})


class BridgeImpossible(Exception):
    """The family cannot continue this very token sequence with the new messages."""


class RolloutRenderer:
    """One model family, with a tokenizer.

    Attributes:
        family: `chatml`, a family of the `renderers` library, or an import path.
        can_bridge: whether multi-turn rollouts are possible at all.
        stop_token_ids: tokens that end the policy's turn.
    """

    family: str
    can_bridge: bool
    stop_token_ids: tuple[int, ...]

    def __init__(self, family: str, renderer: Renderer, tokenizer: Tokenizer) -> None:
        from gym_ray.renderers.corrections import CorrectedFamily

        self.family = family
        self._renderer = renderer
        self._family = CorrectedFamily(family, renderer, tokenizer)
        self._tokenizer = tokenizer
        self._text = None if family in ENCODE_THEMSELVES else MessageText(tokenizer)
        self.stop_token_ids = tuple(int(token) for token in renderer.get_stop_token_ids())
        self.can_bridge = _can_bridge(renderer)

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> Tokens:
        """Prompt tokens of a conversation, ending where the policy's turn begins.

        Args:
            messages: the whole conversation.
            tools: definitions as `tools_for_chat` returns them.

        Returns:
            int32 [P].
        """
        return self._render(messages, tools, generation_prompt=True)

    def render_closed(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()
    ) -> Tokens:
        """Tokens int32 [T] of a conversation in which no turn of the policy is opened."""
        return self._render(messages, tools, generation_prompt=False)

    def render_by_template(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()
    ) -> Tokens | None:
        """As `render`, by the chat template of the tokenizer; None when it has none.

        Whatever the template raises comes through: it is a program.
        """
        if not getattr(self._tokenizer, "chat_template", None):
            return None
        token_ids = self._tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) or None,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=False,
        )
        return np.asarray(token_ids, dtype=np.int32)

    def bridge(
        self,
        prompt: Tokens,
        generation: Tokens,
        new_messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
    ) -> Tokens:
        """Next turn's prompt: what the policy saw and said, verbatim, then the new messages.

        Args:
            prompt: int32 [P], the last turn's whole prompt, earlier turns included.
            generation: int32 [G], what the policy sampled in that turn.
            new_messages: tool results or user messages since; none from the assistant.
            tools: the same as in `render`.

        Returns:
            int32 [N], starting with `prompt` and `generation`.

        Raises:
            BridgeImpossible: this family, or this retention of thinking, has to render the
                conversation anew.
        """
        history = [*prompt.tolist(), *generation.tolist()]
        marked, marked_tools = self._marked(new_messages, tools)
        token_ids = self._family.bridge(
            prompt.tolist(), generation.tolist(), marked, marked_tools or None
        )
        if token_ids is None:
            roles = ", ".join(sorted({str(message["role"]) for message in new_messages})) or "no"
            raise BridgeImpossible(
                f"renderer {self.family} cannot continue a conversation with {roles} messages "
                "without rendering its history anew"
            )
        if token_ids[: len(history)] != history:
            raise BridgeImpossible(
                f"renderer {self.family} changed tokens of the history it was to continue"
            )
        return np.asarray(token_ids, dtype=np.int32)

    def parse(
        self,
        generation: Tokens,
        prompt: Tokens,
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        turn: str = "",
    ) -> AssistantMessage:
        """What the policy said.

        Args:
            generation: int32 [G], stop token included when one was sampled.
            prompt: int32 [P], the prompt it was sampled from; some families open the
                reasoning there.
            tools: the same as in `render`. Where none are offered, everything outside the
                reasoning is content. None when it is not known which there were.
            turn: what no other turn is called, which IDs of calls are made of. Left out, they
                are unique in a conversation that only grows.
        """
        offered = None if tools is None else list(tools)
        parsed = self._family.parse(generation.tolist(), prompt.tolist(), offered)
        # Where a prompt only grows, its length is one no other turn has.
        ids = call_id_prefix(turn) if turn else f"call_{len(prompt)}"
        return AssistantMessage(
            content=parsed.content,
            reasoning=parsed.reasoning_content,
            tool_calls=tuple(
                told_call(call, call.id or f"{ids}_{index}")
                for index, call in enumerate(parsed.tool_calls)
            ),
        )

    def encode(self, text: str, *, special: bool = True) -> Tokens:
        """Tokens int32 [T] of raw text, in which the names of control tokens stand for them.

        Args:
            text: a prompt that is no conversation.
            special: whether the tokenizer adds its own, such as one for the beginning.
        """
        token_ids = self._tokenizer.encode(text, add_special_tokens=special)
        return np.asarray(token_ids, dtype=np.int32)

    def decode(self, token_ids: Tokens | Sequence[int]) -> str:
        """Text of tokens, control tokens included."""
        return str(
            self._tokenizer.decode([int(token) for token in token_ids], skip_special_tokens=False)
        )

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of a single token, which may be a part of a character."""
        return self._token_bytes.of(token_id)

    @functools.cached_property
    def vocabulary_size(self) -> int:
        """Above every token ID that the model may sample."""
        from gym_ray.renderers.tokenizers import vocabulary_size

        return vocabulary_size(self._tokenizer)

    def too_long(self, characters: int, tokens: int) -> bool:
        """Whether a text of so many characters surely has more tokens than that.

        It is asked before a text is encoded, which takes memory many times its size.
        """
        return 0 < self._longest_token * tokens < characters

    @functools.cached_property
    def _longest_token(self) -> int:
        """Characters of the longest token, or bytes, which are no fewer; 0 when nobody says."""
        longest = getattr(self._tokenizer, "longest_token", None)
        if longest is not None:
            return int(longest)
        vocabulary: dict[str, int] = getattr(self._tokenizer, "get_vocab", dict)()
        return max(map(len, vocabulary), default=0)

    @functools.cached_property
    def _token_bytes(self) -> TokenBytes:
        return TokenBytes(self._tokenizer)

    @functools.cached_property
    def control_tokens(self) -> dict[str, int]:
        """Names and IDs of the tokens that no text of a message may become."""
        names = sorted(control_names(self._tokenizer))
        return dict(zip(names, self._tokenizer.convert_tokens_to_ids(names), strict=True))

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        generation_prompt: bool,
    ) -> Tokens:
        marked, marked_tools = self._marked(messages, tools)
        token_ids = self._renderer.render_ids(
            marked, tools=marked_tools or None, add_generation_prompt=generation_prompt
        )
        return np.asarray(token_ids, dtype=np.int32)

    def _marked(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> tuple[list[Message], list[dict[str, Any]]]:
        """Messages and tools whose text stays text; see `message_text`."""
        if self.family != CHATML:  # which writes them as they were by itself
            messages = readable_history(messages)
        if self._text is None:
            return list(messages), list(tools)
        return self._text.messages(messages), self._text.tools(tools)


def load_renderer(
    model_path: str | None, family: str = "auto", thinking_retention: str = "all"
) -> RolloutRenderer:
    """The renderer of a model.

    Args:
        model_path: checkpoint directory or model name; None for the scripted policy.
        family: `auto`, `chatml`, a family of the `renderers` library, or the import path of a
            renderer class of your own. `auto` takes the family the library lists for this very
            model name, else `chatml` if it reproduces the model's chat template token for
            token, else the template itself, which allows single-turn rollouts only.
        thinking_retention: `all` keeps the policy's reasoning in its history; `tool_cycle`
            drops it when the user speaks again, which no bridge can do.

    Raises:
        ConfigError: there is no such family or tokenizer, or the two do not fit.
    """
    if thinking_retention not in ("all", "tool_cycle"):
        raise ConfigError(
            f"thinking_retention must be 'all' or 'tool_cycle', got {thinking_retention!r}"
        )
    check_family(family)
    tokenizer = _load_tokenizer(model_path)
    if family == "auto":
        family = _family_of(tokenizer)
    try:
        rollout_renderer = RolloutRenderer(
            family, _create(family, CuttingTokenizer(tokenizer), thinking_retention), tokenizer
        )
        # Base models have no chat template, which shows only when it is used.
        rollout_renderer.render([{"role": "user", "content": "?"}])
    except Exception as error:
        raise ConfigError(
            f"renderer {family!r} does not fit policy.model {model_path!r}: {one_line(error, 300)}"
        ) from error
    return rollout_renderer


def _load_tokenizer(model_path: str | None) -> Any:
    from gym_ray.renderers.tokenizers import ByteTokenizer, load_tokenizer

    return ByteTokenizer() if model_path is None else load_tokenizer(model_path)


def check_family(family: str, *, key: str | None = None) -> None:
    """Refuse a renderer that there is not; an import path is only looked up where it is loaded.

    Args:
        family: as in `load_renderer`.
        key: where it was named, for the message.

    Raises:
        ConfigError: names the nearest one.
    """
    if family in ("auto", CHATML) or _IMPORT_PATH.fullmatch(family):
        return
    known = ["auto", CHATML, *_library_families()]
    if family in known:
        return
    nearest = difflib.get_close_matches(family, known, n=1, cutoff=0.0)
    where = "" if key is None else f"{key}: "
    raise ConfigError(
        f"{where}unknown renderer {family!r}; did you mean {nearest[0]!r}? "
        f"Valid: {', '.join(known)}, or the import path of a renderer class"
    )


def _library_families() -> list[str]:
    from renderers import base

    base._populate_registry()
    return sorted(base.RENDERER_REGISTRY)


def _family_of(tokenizer: Any) -> str:
    """The family `auto` stands for."""
    from renderers.base import MODEL_RENDERER_MAP

    from gym_ray.renderers.chatml_template import chatml_config_matching
    from gym_ray.renderers.tokenizers import ByteTokenizer

    listed = MODEL_RENDERER_MAP.get(tokenizer.name_or_path)
    if listed is not None:
        return str(listed)
    if isinstance(tokenizer, ByteTokenizer) or chatml_config_matching(tokenizer) is not None:
        return CHATML
    return "default"


def _create(family: str, tokenizer: Any, thinking_retention: str) -> Renderer:
    """The library's renderer object, from an explicit configuration: its own `auto` would ask
    the Hugging Face hub about unknown models."""
    from renderers.base import create_renderer
    from renderers.configs import CustomRendererConfig, config_from_name

    retention = {"thinking_retention": thinking_retention}
    config: BaseRendererConfig
    if family == CHATML:
        config = CustomRendererConfig(
            import_path=_CHATML_CLASS, **_chatml_wording(tokenizer), **retention
        )
    elif family == "default":
        config = config_from_name("default")  # an opaque template has no say in retention
    elif family in _library_families():
        config = type(config_from_name(family))(**retention)
    else:
        config = CustomRendererConfig(import_path=family, **retention)
    return create_renderer(tokenizer, config)


def _chatml_wording(tokenizer: Any) -> dict[str, Any]:
    """Fields of `ChatMLConfig` as the model's own template words them; none without a match."""
    from gym_ray.renderers.chatml_template import chatml_config_matching

    matching = chatml_config_matching(tokenizer)
    if matching is None:
        return {}
    return {field: getattr(matching, field) for field in matching.model_fields_set}


def _can_bridge(renderer: Renderer) -> bool:
    from renderers.default import DefaultRenderer

    if isinstance(renderer, DefaultRenderer):
        return False
    return getattr(renderer, "effective_thinking_retention", "all") != "template"
