"""Does our ChatML renderer speak for a tokenizer's chat template, and in which wording?

Answered by rendering: the template's default system message and tool section are read off
probe conversations, and the match counts only if our renderer then gives the template's very
tokens on further probes. A fine-tune with a changed template is found out here.
"""

from __future__ import annotations

import json
from typing import Any

from gym_ray.renderers.chatml import ChatMLConfig, ChatMLRenderer
from gym_ray.renderers.messages import Message
from gym_ray.renderers.tokenizers import TURN_END, TURN_START

_SYSTEM: Message = {"role": "system", "content": "Answer in one word."}
_USER: Message = {"role": "user", "content": "Which city?"}
_HISTORY: list[Message] = [
    _USER,
    {"role": "assistant", "content": "Oslo.\n\n  Or Bergen é"},
    {"role": "user", "content": "  Sure?\n"},
]
_TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The {name} function.",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        },
    }
    for name in ("first_probe", "second_probe")
]
_TOOL_USE: list[Message] = [
    _USER,
    {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [
            {
                "type": "function",
                "id": f"call_{number}",
                "function": {"name": tool["function"]["name"], "arguments": {"place": "here"}},
            }
            for number, tool in enumerate(_TOOLS)
        ],
    },
    {"role": "tool", "tool_call_id": "call_0", "content": "Oslo"},
    {"role": "tool", "tool_call_id": "call_1", "content": '{"city": "Bergen"}'},
]


def chatml_config_matching(tokenizer: Any) -> ChatMLConfig | None:
    """The configuration under which `ChatMLRenderer` reproduces the tokenizer's chat template.

    Returns:
        None when there is no template, it is not ChatML, or ours differs from it.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not isinstance(template, str) or TURN_START not in template:
        return None
    try:
        config, uses_tools = _read_wording(tokenizer)
        renderer = ChatMLRenderer(tokenizer, config)
        matches = all(
            renderer.render_ids(messages, tools=tools, add_generation_prompt=True)
            == _template(tokenizer, messages, tools, tokenize=True)
            for messages, tools in _probes(uses_tools)
        )
    except Exception:  # a template is a program: on a probe it may raise anything
        return None
    return config if matches else None


def _probes(uses_tools: bool) -> list[tuple[list[Message], list[dict[str, Any]] | None]]:
    probes: list[tuple[list[Message], list[dict[str, Any]] | None]] = [
        ([_USER], None),
        ([_SYSTEM, _USER], None),
        (_HISTORY, None),
        ([_SYSTEM, *_HISTORY], None),
    ]
    if uses_tools:
        probes += [
            ([_USER], _TOOLS),
            ([_SYSTEM, _USER], _TOOLS[:1]),
            ([_SYSTEM, *_TOOL_USE], _TOOLS),
            (_TOOL_USE, _TOOLS),
        ]
    return probes


def _read_wording(tokenizer: Any) -> tuple[ChatMLConfig, bool]:
    """The template's wording, and whether it says anything about tools.

    Raises:
        ValueError: the template's text does not have ChatML's frame.
    """
    question = f"{TURN_START}user\n{_USER['content']}{TURN_END}\n{TURN_START}assistant\n"
    default = _between(_template(tokenizer, [_USER], None), "", question)
    wording: dict[str, str] = {}
    if default:
        wording["default_system"] = _between(default, f"{TURN_START}system\n", f"{TURN_END}\n")
    plain = _template(tokenizer, [_SYSTEM, _USER], None)
    offered = _template(tokenizer, [_SYSTEM, _USER], _TOOLS)
    if offered == plain:
        return ChatMLConfig(**wording), False
    system = f"{TURN_START}system\n{_SYSTEM['content']}\n\n"
    section = _between(offered, system, f"{TURN_END}\n{question}")
    signatures = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in _TOOLS)
    wording["tools_header"], found, wording["tools_footer"] = section.partition(signatures)
    if not found:
        raise ValueError("the template lists tools in another form")
    return ChatMLConfig(**wording), True


def _template(
    tokenizer: Any,
    messages: list[Message],
    tools: list[dict[str, Any]] | None,
    *,
    tokenize: bool = False,
) -> Any:
    return tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=tokenize, add_generation_prompt=True, return_dict=False
    )


def _between(text: str, before: str, after: str) -> str:
    if not text.startswith(before) or not text.endswith(after):
        raise ValueError("the template does not have ChatML's frame")
    return text[len(before) : len(text) - len(after)]
