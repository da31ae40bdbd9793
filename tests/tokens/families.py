"""Renderers of fourteen families without their tokenizers: SmolLM2's, with their special tokens."""

from pathlib import Path
from unittest import mock

from gym_ray.renderers.renderer import RolloutRenderer, load_renderer

_THINK = ["<think>", "</think>"]
_TOOL = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
_DEEPSEEK = (
    ["User", "Assistant", "begin▁of▁sentence", "end▁of▁sentence", "tool▁sep"]
    + [f"tool▁{part}▁{end}" for part in ("calls", "call", "outputs") for end in ("begin", "end")]
    + [f"tool▁output▁{end}" for end in ("begin", "end")]
)
_HY3_WORDS = ("hy_begin_of_sentence", "hy_eos", "hy_User", "hy_Assistant", "reasoning_mode")
_HY3_TAGS = (
    "think", "tool_calls", "tool_call", "arg_key", "arg_value", "tool_responses", "tool_response",
)  # fmt: skip
SPECIAL_TOKENS = [
    *_THINK,
    *_TOOL,
    *(f"<|{name}|>" for name in ("vision_start", "vision_end", "image_pad", "video_pad")),
    *(f"<|{name}|>" for name in ("begin_of_text", "end_of_text", "eot_id", "eom_id")),
    *(f"<|{name}|>" for name in ("start_header_id", "end_header_id", "python_tag")),
    *(f"<|im_{name}|>" for name in ("user", "assistant", "system", "middle")),
    *(f"<|tool_calls_section_{end}|>" for end in ("begin", "end")),
    *(f"<|tool_call_{part}|>" for part in ("begin", "argument_begin", "end")),
    *(f"<｜{name}｜>" for name in _DEEPSEEK),
    *("[gMASK]", "<sop>"),
    *(f"<|{name}|>" for name in ("system", "user", "assistant", "observation")),
    *(f"<{slash}arg_{part}>" for part in ("key", "value") for slash in ("", "/")),
    *("]~!b[", "]~b]", "[e~[", "<minimax:tool_call>", "</minimax:tool_call>"),
    *("〈|EOS|〉", "<assistant>", "</assistant>"),
    *(f"<｜{name}:opensource｜>" for name in _HY3_WORDS),
    *(f"<{slash}{tag}:opensource>" for tag in _HY3_TAGS for slash in ("", "/")),
    "<tool_sep:opensource>",
]
FAMILIES = (
    "chatml", "qwen3", "qwen3.5", "llama-3", "kimi-k2", "deepseek-v3", "glm-5", "nemotron-3",
)  # fmt: skip
#: Further ways of writing calls.
OTHER_FAMILIES = ("glm-4.5", "minimax-m2", "laguna-xs.2", "laguna-xs-2.1", "hy3", "qwen3.6")


def load_families(tokenizer_directory: Path) -> dict[str, RolloutRenderer]:
    """A renderer of each family, all on one tokenizer."""
    from gym_ray.renderers.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(str(tokenizer_directory))
    tokenizer.add_tokens(SPECIAL_TOKENS, special_tokens=True)
    # SmolLM2's unknown token is <|endoftext|>, which families would take for a missing one.
    tokenizer.unk_token = None
    with mock.patch("gym_ray.renderers.tokenizers.load_tokenizer", return_value=tokenizer):
        return {family: load_renderer("smollm2", family) for family in (*FAMILIES, *OTHER_FAMILIES)}
