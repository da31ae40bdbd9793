"""The ChatML renderer's format as a Jinja chat template that says which part the policy said.

Trainers render messages by a tokenizer's chat template, and learn what stands between its
`{% generation %}` marks. The bundled model's own template has no marks and no tools; this one
gives the tokens `ChatMLRenderer` gives, which are those the policy sampled from, and marks what
it would have sampled: `<|im_end|>` is in, the line break after it is not. Held by tests.

Not covered: text that spells a control token, which a template turns into that token and the
renderer does not. A turn that begins with a blank: where the vocabulary joins it to the line
break before it, the joint token is marked, and the renderer's is not. A turn that begins with a
character the vocabulary has no token for, which no policy samples: transformers marks nothing
from there on. Not owned here: templates of other families; TRL brings those.
"""

from __future__ import annotations

from typing import Any

from gym_ray.renderers.chatml import ChatMLConfig
from gym_ray.renderers.chatml_template import chatml_config_matching


def training_template(tokenizer: Any) -> str:
    """A chat template to train a model with whose rollouts were rendered as `chatml`.

    Args:
        tokenizer: of the model, from `transformers`. The wording of the default system message
            and of the tool section is read off its own template, as it is for rollouts.

    Returns:
        Jinja for `tokenizer.chat_template`.
    """
    config = chatml_config_matching(tokenizer) or ChatMLConfig()
    return (
        _TEMPLATE.replace("DEFAULT_SYSTEM", _literal(config.default_system))
        .replace("TOOLS_HEADER", _literal(config.tools_header))
        .replace("TOOLS_FOOTER", _literal(config.tools_footer))
    )


def _literal(text: str | None) -> str:
    # Jinja reads string literals as Python does.
    return "none" if text is None else repr(text)


_TEMPLATE = r"""
{%- set opening = DEFAULT_SYSTEM %}
{%- if messages[0]['role'] == 'system' %}
    {%- set opening = messages[0]['content'] %}
{%- endif %}
{%- if tools or opening is string %}
    {{- '<|im_start|>system\n' }}
    {%- if opening is string %}
        {{- opening + ('\n\n' if tools else '') }}
    {%- endif %}
    {%- if tools %}
        {{- TOOLS_HEADER }}
        {%- for tool in tools %}
            {{- '\n' + (tool | tojson) }}
        {%- endfor %}
        {{- TOOLS_FOOTER }}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- '<|im_start|>assistant\n' }}
        {%- generation %}
        {%- if message['reasoning_content'] is string %}
            {{- '<think>\n' + message['reasoning_content'] + '\n</think>\n\n' }}
        {%- endif %}
        {{- message['content'] }}
        {%- for call in message['tool_calls'] or [] %}
            {%- set function = call['function'] %}
            {%- set arguments = function['arguments'] %}
            {{- '\n' if message['content'] or not loop.first else '' }}
            {{- '<tool_call>\n{"name": ' + (function['name'] | tojson) + ', "arguments": ' }}
            {{- arguments if arguments is string else (arguments | tojson) }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\n' }}
    {%- elif message['role'] == 'tool' %}
        {{- '<|im_start|>user' if loop.first or loop.previtem['role'] != 'tool' else '' }}
        {{- '\n<tool_response>\n' + message['content'] + '\n</tool_response>' }}
        {{- '<|im_end|>\n' if loop.last or loop.nextitem['role'] != 'tool' else '' }}
    {%- elif not (loop.first and message['role'] == 'system') %}
        {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}"""
