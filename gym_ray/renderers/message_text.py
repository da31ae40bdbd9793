"""Text of messages never becomes a control token, whatever the family and the tokenizer.

A family encodes a message together with the words around it, and a tokenizer turns the name of
an added token into that token wherever it stands. So the text of messages is marked before the
family sees it: a `CUT`, which no text can hold, after the first character of every name of a
control token. `CuttingTokenizer`, which the family is given, encodes what is left and right of a
cut apart, so no name comes together again. What the family itself writes has no cuts.

Covered: every string of messages and of tool definitions. Names are those of the tokenizer's
added tokens, special or not (`<｜User｜>` and `<tool_call>` are not everywhere), except HTML
and space, which are text. Tags that a policy's turn is made of, such as `<think>` and
`<tool_call>`, stay tokens in what the assistant said. Not covered: families that encode messages
without their tokenizer (`gpt-oss`), which keep text as text by themselves; `check-template` probes
every family.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gym_ray.renderers.messages import Message

#: A lone surrogate: legal in Python's strings only, so it is in nothing that is encoded.
CUT = "\udfff"

#: Added tokens that are markup of documents: some vocabularies have a token for each.
_HTML = re.compile(
    r"</?(?:a|b|blockquote|br|caption|code|dd|div|dl|dt|em|h[1-6]|hr|i|img|kbd|li|ol|p|pre|s|span"
    r"|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|u|ul)/?>"
)
#: Added tokens that a policy's turn is made of.
_OWN = re.compile(
    r"</?(?:minimax:)?(?:think|tool_calls?|tool_sep|arg_key|arg_value)(?::opensource)?>"
)

#: Characters of tool definitions that are kept marked.
_MOST_TOOLS_CHARACTERS = 4 * 1024**2

#: Fields of an assistant's message that are what it said, tags of its own included.
_SAID = frozenset({"content", "reasoning_content"})


class MessageText:
    """Marks the text of messages for one tokenizer.

    Args:
        tokenizer: whose added tokens are the control tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        names = control_names(tokenizer)
        self._cut = _before(names)
        self._cut_said = _before(name for name in names if not _OWN.fullmatch(name))
        self._tools: dict[str, list[dict[str, Any]]] = {}
        self._tools_characters = 0

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """The same messages, marked."""
        return [self._message(message) for message in messages]

    def tools(self, tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The same definitions, marked. They are not to be changed: an environment offers the same
        ones to every rollout, and is given the same marked ones.
        """
        key = json.dumps(tools)
        found = self._tools.get(key)
        if found is None:
            found = [self._marked(tool, self._cut) for tool in tools]
            self._tools_characters += len(key)
            if self._tools_characters > _MOST_TOOLS_CHARACTERS:
                self._tools, self._tools_characters = {}, len(key)
            self._tools[key] = found
        return list(found)

    def _message(self, message: Message) -> Message:
        marked: Message = {}
        for key, value in message.items():
            own = message.get("role") == "assistant" and key in _SAID
            cut = self._cut_said if own else self._cut
            marked[key] = value if key == "role" else self._marked(value, cut)
            if key == "content" and isinstance(value, list):
                marked[key] = _apart(marked[key], value, cut)
        return marked

    def _marked(self, value: Any, cut: re.Pattern[str] | None) -> Any:
        if isinstance(value, str):
            return _marked_text(value, cut)
        if isinstance(value, Mapping):
            marked = {self._marked(k, cut): self._marked(v, cut) for k, v in value.items()}
            arguments = value.get("arguments")
            if isinstance(arguments, str):
                marked["arguments"] = self._marked_arguments(arguments)
            return marked
        if isinstance(value, list | tuple):
            return [self._marked(item, cut) for item in value]
        return value

    def _marked_arguments(self, arguments: str) -> str:
        try:
            read = json.loads(arguments)
        except (ValueError, RecursionError):  # an attempt, kept as the policy said it
            return _marked_text(arguments, self._cut_said)
        if self._cut is not None and "\\" in arguments:
            # Escapes hide a name, and a family may read the JSON and write it without them.
            plain = json.dumps(read, ensure_ascii=False)
            arguments = plain if self._cut.search(plain) else arguments
        return _marked_text(arguments, self._cut)


class CuttingTokenizer:
    """A tokenizer that encodes the text on both sides of a cut apart; else it is as the given one.

    Args:
        tokenizer: satisfies the `renderers` library's `Tokenizer` protocol.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        if name == "_tokenizer":  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self._tokenizer, name)

    def encode(self, text: str, *args: Any, **options: Any) -> list[int]:
        """Token IDs of `text`, cuts left out."""
        pieces = text.split(CUT)
        token_ids = [self._tokenizer.encode(piece, *args, **options) for piece in pieces if piece]
        return [token_id for piece in token_ids for token_id in piece]

    def __call__(self, text: str, **options: Any) -> Any:
        """`input_ids` and, where they are asked for, `offset_mapping` of `text`."""
        if CUT not in text:
            return self._tokenizer(text, **options)
        token_ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        start = 0
        for piece in text.split(CUT):
            if piece:
                encoded = self._tokenizer(piece, **options)
                token_ids += encoded["input_ids"]
                offsets += [
                    (left + start, right + start)
                    for left, right in encoded.get("offset_mapping") or ()
                ]
            start += len(piece) + len(CUT)
        return {"input_ids": token_ids, "offset_mapping": offsets}

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """As the tokenizer's own, tokens or text, in which cuts are kept."""
        tokenize = options.pop("tokenize", True)
        options.pop("return_dict", None)
        text = self._tokenizer.apply_chat_template(conversation, tokenize=False, **options)
        return self.encode(text, add_special_tokens=False) if tokenize else text


def control_names(tokenizer: Any) -> frozenset[str]:
    """Names of a tokenizer's control tokens."""
    decoder = getattr(tokenizer, "added_tokens_decoder", None)
    if decoder is None:
        return frozenset(getattr(tokenizer, "control_names", ()))
    return frozenset(
        token.content
        for token in decoder.values()
        if token.special or not (_is_space(token.content) or _HTML.fullmatch(token.content))
    )


def _is_space(name: str) -> bool:
    return not name.replace("▁", " ").strip()


def _before(names: Iterable[str]) -> re.Pattern[str] | None:
    """Matches the first character of every name in a text, overlapping ones too."""
    # Vocabularies hold thousands of numbered names; one pattern stands for all of a kind.
    kinds = {re.sub(r"\d+", r"\\d+", re.escape(name)) for name in names if len(name) > 1}
    if not kinds:
        return None
    return re.compile(f"(?=(?:{'|'.join(sorted(kinds))}))(.)", re.DOTALL)


def _marked_text(text: str, cut: re.Pattern[str] | None) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates stand for no text, and one is the cut
        text = text.encode("utf-8", "replace").decode()
    return text if cut is None else cut.sub(rf"\1{CUT}", text)


def _apart(parts: list[Any], given: list[Any], cut: re.Pattern[str] | None) -> list[Any]:
    """Parts of a content, of which families make one text: no name across their borders."""
    texts = [part.get("text", "") if isinstance(part, dict) else part for part in given]
    if cut is None or not all(isinstance(text, str) for text in texts):
        return parts
    whole = functools.partial(re.findall, cut)
    alone = sum(len(whole(text)) for text in texts)
    if all(len(whole("".join(form))) == alone for form in (texts, map(str.strip, texts))):
        return parts
    return parts[:1] + [
        {**part, "text": CUT + part["text"]} if isinstance(part, dict) and "text" in part
        else CUT + part if isinstance(part, str)
        else part
        for part in parts[1:]
    ]  # fmt: skip
