"""Does exact continuation hold for a model and a renderer? Answered by rendering, without weights.

Three comparisons on probe conversations. *Continuation*: the renderer's bridge over a turn against
a full render of the same conversation. *Template*: the renderer's full render against the
tokenizer's own chat template. *Text*: a conversation whose text spells every control token against
the same one with harmless text; both must have the same control tokens.

What it covers: the forms of conversation in `PROBES`. What it does not: a family may still find
a generation it cannot continue (reasoning that was cut short, say); such a turn starts a branch
when it happens.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from gym_ray.errors import one_line
from gym_ray.renderers.messages import Message
from gym_ray.renderers.renderer import BridgeImpossible, RolloutRenderer
from gym_ray.turn import Tokens

#: `exact`: the same tokens. `kept`: the same but for history (reasoning, mostly) that the other
#: side leaves out or changes and the renderer keeps as it was sampled. `unsupported`: the
#: conversation has no form in this family or template.
Result = Literal["exact", "kept", "differs", "impossible", "unsupported"]

#: Tokens shown from the first differing one on.
SHOWN_TOKENS = 6


@dataclasses.dataclass(frozen=True, slots=True)
class PromptDifference:
    """Where two token sequences part.

    Attributes:
        position: index of the first differing token.
        rendered, continued: up to `SHOWN_TOKENS` tokens from there on, as (ID, text): of the
            full render or chat template, and of the bridge or renderer.
    """

    position: int
    rendered: tuple[tuple[int, str], ...]
    continued: tuple[tuple[int, str], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class RendererFinding:
    """One probe, one comparison."""

    comparison: Literal["continuation", "template", "text"]
    probe: str
    result: Result
    detail: str = ""
    difference: PromptDifference | None = None

    @property
    def is_fault(self) -> bool:
        return self.result in ("differs", "impossible")


@dataclasses.dataclass(frozen=True, slots=True)
class TemplateReport:
    """What the probes found.

    Attributes:
        family: the renderer's.
        exact: whether exact continuation holds: no finding is a fault, and at least one turn
            was continued.
        forgeable: whether text of a message can become a control token, and so end its turn.
        findings: in the order of the probes.
    """

    family: str
    exact: bool
    forgeable: bool
    findings: tuple[RendererFinding, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """A conversation; every message of the assistant in it stands for a turn of the policy."""

    name: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


def check_template(renderer: RolloutRenderer) -> TemplateReport:
    """Probe a renderer, its bridge and its tokenizer's chat template."""
    findings = [finding for probe in PROBES for finding in _check_continuation(renderer, probe)]
    continued = any(finding.result in ("exact", "kept") for finding in findings)
    findings += [_check_template(renderer, probe) for probe in PROBES]
    texts = [_check_text(renderer, place) for place in _PLACES]
    forgeable = any(finding.is_fault for finding in texts)
    exact = continued and not any(finding.is_fault for finding in [*findings, *texts])
    return TemplateReport(renderer.family, exact, forgeable, (*findings, *texts))


def completion_of(
    renderer: RolloutRenderer,
    before: Sequence[Message],
    assistant: Message,
    after: Sequence[Message],
    tools: Sequence[dict[str, Any]] = (),
) -> Tokens | None:
    """Tokens a policy samples to say `assistant`, its stop token included.

    Args:
        renderer: the family.
        before, after: the messages around it.
        assistant: what is said.
        tools: the tools offered.

    Returns:
        int32 [G], or None when no policy says that: its turn opens otherwise, as where a family
        opens the reasoning and the message has none.
    """
    opened = renderer.render([*before], tools)
    closed = renderer.render_closed([*before, assistant], tools)
    if not np.array_equal(closed[: len(opened)], opened):
        return None
    said = closed[len(opened) :]
    stop = _first_stop(renderer, said)
    if stop is not None:
        return said[: stop + 1]
    # Families without an end of turn stop at the opening of the next one.
    following = renderer.render([*before, assistant, *after], tools)
    following = following[_shared_length(following, closed) :]
    stop = _first_stop(renderer, following)
    return said if stop is None else np.append(said, following[stop])


def render_report(report: TemplateReport) -> str:
    """The report for a terminal."""
    lines = [f"renderer {report.family}"]
    for finding in report.findings:
        detail = f": {finding.detail}" if finding.detail else ""
        lines.append(f"  {finding.comparison:12}  {finding.probe:35}  {finding.result}{detail}")
        if finding.is_fault and finding.difference is not None:
            lines += [
                f"      first difference at token {finding.difference.position}",
                f"      rendered whole  {_shown(finding.difference.rendered)}",
                f"      by the renderer {_shown(finding.difference.continued)}",
            ]
    verdict = "holds" if report.exact else "does not hold"
    if report.forgeable:
        lines.append("Text of messages can forge turns.")
    return "\n".join([*lines, f"Exact continuation {verdict}."])


def _shown(tokens: tuple[tuple[int, str], ...]) -> str:
    return " ".join(f"{token_id}={text!r}" for token_id, text in tokens) or "(ends here)"


def _check_continuation(renderer: RolloutRenderer, probe: Probe) -> Iterator[RendererFinding]:
    """One finding a turn, up to the first fault."""
    messages = list(probe.messages)
    prompt: Tokens | None = None
    for number, (turn, end) in enumerate(_turns(messages), 1):
        name = f"{probe.name}, turn {number}"
        try:
            before, after = messages[:turn], messages[turn + 1 : end]
            prompt = renderer.render(before, probe.tools) if prompt is None else prompt
            generation = completion_of(renderer, before, messages[turn], after, probe.tools)
            if generation is None:
                # The family opens the reasoning itself: let the policy reason.
                messages[turn] = {**messages[turn], "reasoning_content": _THOUGHT}
                generation = completion_of(renderer, before, messages[turn], after, probe.tools)
            rendered = renderer.render(messages[:end], probe.tools)
        except Exception as error:  # families refuse what their format lacks, each in its way
            yield RendererFinding("continuation", name, "unsupported", one_line(error, 160))
            return
        if generation is None:
            detail = "a full render opens the policy's turn otherwise than its prompt did"
            yield RendererFinding("continuation", name, "unsupported", detail)
            return
        history = np.concatenate([prompt, generation])
        try:
            prompt = renderer.bridge(prompt, generation, after, probe.tools)
        except BridgeImpossible as error:
            rewritten = not np.array_equal(rendered[: len(history)], history)
            difference = _difference(renderer, rendered, history) if rewritten else None
            effect = "changes" if rewritten else "keeps"
            detail = f"{error}; a full render {effect} the history"
            yield RendererFinding("continuation", name, "impossible", detail, difference)
            return
        yield _compared_bridge(renderer, name, prompt, rendered, len(history))


def _compared_bridge(
    renderer: RolloutRenderer, name: str, bridged: Tokens, rendered: Tokens, history: int
) -> RendererFinding:
    if np.array_equal(bridged, rendered):
        return RendererFinding("continuation", name, "exact")
    difference = _difference(renderer, rendered, bridged)
    added = bridged[history:]
    if difference.position < history and np.array_equal(rendered[-len(added) :], added):
        detail = "a full render would change the history; the bridge keeps it"
        return RendererFinding("continuation", name, "kept", detail, difference)
    detail = "the bridge adds other tokens than a full render"
    return RendererFinding("continuation", name, "differs", detail, difference)


def _check_template(renderer: RolloutRenderer, probe: Probe) -> RendererFinding:
    try:
        rendered = renderer.render(probe.messages, probe.tools)
        by_template = renderer.render_by_template(probe.messages, probe.tools)
        if by_template is None:
            raise ValueError("the tokenizer has no chat template")
        if probe.tools and _same(by_template, renderer.render_by_template(probe.messages)):
            raise ValueError("the chat template says nothing of tools")
        unthinking = [_without_reasoning(message) for message in probe.messages]
        leaves_reasoning_out = _same(
            by_template, renderer.render_by_template(unthinking, probe.tools)
        ) and _same(by_template, renderer.render(unthinking, probe.tools))
    except Exception as error:  # templates, being programs, may raise anything
        return RendererFinding("template", probe.name, "unsupported", one_line(error, 160))
    if np.array_equal(rendered, by_template):
        return RendererFinding("template", probe.name, "exact")
    difference = _difference(renderer, by_template, rendered)
    if leaves_reasoning_out:
        detail = "the chat template leaves reasoning out; the renderer keeps it"
        return RendererFinding("template", probe.name, "kept", detail, difference)
    detail = "the renderer gives other tokens than the chat template"
    return RendererFinding("template", probe.name, "differs", detail, difference)


def _check_text(renderer: RolloutRenderer, place: str) -> RendererFinding:
    """Control tokens of a conversation with hostile text in one place, rendered and bridged."""
    names = _one_of_a_kind(renderer.control_tokens)
    hostile = " ".join(names)
    found = []
    for text in ("x", hostile):
        try:
            prompts = _prompts_with(renderer, place, text)
        except Exception as error:
            return RendererFinding("text", place, "unsupported", one_line(error, 160))
        if text not in renderer.decode(prompts[-1]):
            detail = "the text is left out or changed"
            return RendererFinding("text", place, "unsupported", detail)
        control = list(renderer.control_tokens.values())
        found.append([prompt[np.isin(prompt, control)] for prompt in prompts])
    if all(map(np.array_equal, *found)):
        return RendererFinding("text", place, "exact")
    difference = _difference(renderer, found[0][-1], found[1][-1])
    detail = "text became control tokens: whoever writes it can speak as somebody else"
    return RendererFinding("text", place, "differs", detail, difference)


def _prompts_with(renderer: RolloutRenderer, place: str, text: str) -> list[Tokens]:
    """Whole renders of a conversation with `text` in one place, and a bridge where there is one."""
    user, told = [_USER], [_result(0, text)] if place == "tool result" else [_DOUBT]
    calls, tools = _calls((1, 2)), _TOOLS
    match place:
        case "system message":
            user = [{"role": "system", "content": text}, _USER]
        case "user message":
            told = [{"role": "user", "content": text}]
        case "tool definition":
            function = {**_TOOLS[0]["function"], "description": text}
            tools = ({"type": "function", "function": function},)
        case "tool call":
            function = {"name": "add", "arguments": {"a": text}}
            calls = {**calls, "tool_calls": [{**calls["tool_calls"][0], "function": function}]}
    said = calls if place in ("tool result", "tool call") else _ANSWER
    if place == "tool call":
        told = [_result(0, "3")]
    offered = tools if place.startswith("tool") else ()
    prompts = [renderer.render([*user, said, *told], offered)]
    if place in ("user message", "tool result") and renderer.can_bridge:
        stop = np.asarray(renderer.stop_token_ids[:1], dtype=np.int32)
        prompts.append(renderer.bridge(renderer.render(user, offered), stop, told, offered))
    return prompts


def _one_of_a_kind(names: Iterable[str]) -> list[str]:
    """The names without those that differ in numbers only: vocabularies reserve thousands."""
    return list({re.sub(r"\d+", "0", name): name for name in names}.values())


def _same(one: Tokens, other: Tokens | None) -> bool:
    return other is not None and np.array_equal(one, other)


def _without_reasoning(message: Message) -> Message:
    return {key: value for key, value in message.items() if key != "reasoning_content"}


def _turns(messages: Sequence[Message]) -> Iterator[tuple[int, int]]:
    """Index of each message of the assistant, and of the one after it, or the end."""
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return zip(turns, [*turns[1:], len(messages)], strict=True)


def _first_stop(renderer: RolloutRenderer, token_ids: Tokens) -> int | None:
    stops = np.nonzero(np.isin(token_ids, renderer.stop_token_ids))[0]
    return int(stops[0]) if len(stops) else None


def _shared_length(one: Tokens, other: Tokens) -> int:
    shared = min(len(one), len(other))
    differs = np.nonzero(one[:shared] != other[:shared])[0]
    return int(differs[0]) if len(differs) else shared


def _difference(renderer: RolloutRenderer, rendered: Tokens, continued: Tokens) -> PromptDifference:
    position = _shared_length(rendered, continued)

    def shown(token_ids: Tokens) -> tuple[tuple[int, str], ...]:
        window = token_ids[position : position + SHOWN_TOKENS].tolist()
        return tuple((token_id, renderer.decode([token_id])) for token_id in window)

    return PromptDifference(position, shown(rendered), shown(continued))


#: Where a conversation has text that somebody else may have written.
_PLACES = ("system message", "user message", "tool result", "tool definition", "tool call")

_THOUGHT = "The user wants a sum. I add."
_SYSTEM: Message = {"role": "system", "content": "You add numbers."}
_USER: Message = {"role": "user", "content": "What is 1 + 2? And 3 + 4?"}
_DOUBT: Message = {"role": "user", "content": "Are you sure?"}
_ANSWER: Message = {"role": "assistant", "content": "It is 3, and 7."}
_THOUGHTFUL: Message = {**_ANSWER, "reasoning_content": _THOUGHT}
_TOOLS: tuple[dict[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
        },
    },
)


def _calls(*pairs: tuple[int, int], **fields: str) -> Message:
    calls = [
        {
            "type": "function",
            "id": f"functions.add:{number}",
            "function": {"name": "add", "arguments": {"a": a, "b": b}},
        }
        for number, (a, b) in enumerate(pairs)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls, **fields}


def _result(number: int, text: str) -> Message:
    call_id = f"functions.add:{number}"
    return {"role": "tool", "tool_call_id": call_id, "name": "add", "content": text}


#: Every one ends where the policy's turn begins.
PROBES: tuple[Probe, ...] = (
    Probe("several questions", (_SYSTEM, _USER, _ANSWER, _DOUBT, _ANSWER, _USER)),
    Probe("no system message", (_USER, _ANSWER, _DOUBT)),
    Probe("a tool", (_USER, _calls((1, 2)), _result(0, "3"), _ANSWER, _DOUBT), _TOOLS),
    Probe(
        "parallel tool calls",
        (_SYSTEM, _USER, _calls((1, 2), (3, 4)), _result(0, "3"), _result(1, "7")),
        _TOOLS,
    ),
    Probe("thinking, then a question", (_USER, _THOUGHTFUL, _DOUBT)),
    Probe(
        "thinking between tool calls",
        (
            _USER,
            _calls((1, 2), reasoning_content=_THOUGHT),
            _result(0, "3"),
            _calls((3, 4), reasoning_content=_THOUGHT),
            _result(0, "7"),
        ),
        _TOOLS,
    ),
)
