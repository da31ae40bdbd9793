"""A conversation: the messages of a rollout as a tree, over the tokens of its transcript.

For callers that are handed whole message lists, turn after turn: agents that edit or compact
their history, and clients that speak chat completions. Each message is stored once. A list that
goes on from a turn the policy took is continued from that turn's very tokens; any other list is
rendered from its beginning and becomes a branch of the transcript. Where turns look alike, the one
is continued whose tokens or call IDs came back, else the newest.

Not owned here: which messages are the same (same_message), tokens (transcript), and how a family
renders or continues (renderers).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from gym_ray.agents.message_path import MessageNode, MessagePath
from gym_ray.agents.same_message import Piece, markups_of, pieces_of, same_text, value_of
from gym_ray.policies.chat import TOKEN_FIELDS, without_tokens
from gym_ray.renderers.messages import AssistantMessage, Message
from gym_ray.renderers.renderer import BridgeImpossible, RolloutRenderer
from gym_ray.transcript import Transcript
from gym_ray.turn import Generation, Tokens

#: Tokens that messages bring, by their number: those of the prompt, and of the generation.
_SentTokens: TypeAlias = Mapping[int, tuple[bytes, bytes]]

_NO_TEXT = Piece("text", "", message=0)

#: Places looked at for a conversation that goes on under another system message or with other
#: tools, the newest of these first: where they change with every turn, there is a whole history for
#: each.
_MOST_PLACES = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """What the policy is to be sampled from next.

    Attributes:
        token_ids: int32 [P].
        messages: the conversation it stands for.
        tools: the tools offered in it.
        continues: number of the turn whose prompt and generation it starts with, or None when
            it was rendered from the beginning.
        obstacle: why the turn these messages go on from could not be continued; None when it
            was, and when they go on from no turn.
        follows: number of the turn these messages go on from, under whatever system message and
            with whatever tools; None when they go on from none.
        new: what was said since that turn, all messages where there is none; outputs have the
            IDs of the calls they answer, as the policy was told them.
    """

    token_ids: Tokens
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    continues: int | None
    obstacle: str | None = None
    follows: int | None = None
    new: tuple[Message, ...] = ()
    _place: MessagePath | None = dataclasses.field(default=None, repr=False, compare=False)


class MessageTree:
    """Messages in, exact prompts out. Several calls may be in flight at once.

    Args:
        renderer: of the policy's model.

    Attributes:
        transcript: the tokens of every turn added.

    Example:
        >>> conversation = Conversation(renderer)                       # doctest: +SKIP
        >>> prompt = conversation.prompt(messages, tools)               # doctest: +SKIP
        >>> said = conversation.add(prompt, await sample(prompt.token_ids))  # doctest: +SKIP
    """

    transcript: Transcript

    def __init__(self, renderer: RolloutRenderer) -> None:
        self.transcript = Transcript()
        self._renderer = renderer
        self._beginnings: dict[Hashable, MessageNode] = {}
        #: Asked for last, with no turn added since: choices of one request have the same prompt.
        self._last: tuple[Hashable, Prompt] | None = None
        self._places = 0  # looked at so far

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> Prompt:
        """Prompt tokens of the next turn.

        Args:
            messages: the whole conversation. Those of the assistant may carry the tokens of the
                turn they were, which then is the one continued.
            tools: definitions as `tools_for_chat` returns them. The tools stand in the history,
                so a conversation with other tools goes on from no earlier turn.
        """
        plain = tuple(without_tokens(message) for message in messages)
        tokens = {number: sent for number, sent in enumerate(map(_tokens, messages)) if sent}
        # 1 and True are equal, and are not rendered alike.
        asked = (repr((plain, tools)), tuple(tokens.items()))
        if self._last is None or self._last[0] != asked:
            self._last = (asked, self._prompt(plain, tuple(tools), tokens))
        return self._last[1]

    def _prompt(
        self,
        messages: tuple[Message, ...],
        tools: tuple[dict[str, Any], ...],
        tokens: _SentTokens,
    ) -> Prompt:
        pieces = pieces_of(messages)
        begun = MessagePath(self._beginning(tools, pieces), pieces, _after_system(pieces))
        obstacle = None
        place = self._deepest(begun, tokens)
        follows = place if place.node.turn is not None else self._anywhere(begun, tokens)
        new = _new(messages, follows)
        if place.node.turn is not None:
            prompt, generation = self.transcript.history(place.node.turn)
            try:
                token_ids = self._renderer.bridge(prompt, generation, new, tools)
            except BridgeImpossible as error:
                obstacle = str(error)
            else:
                turn = place.node.turn
                return Prompt(token_ids, messages, tools, turn, None, turn, new, place)
        token_ids = self._renderer.render(messages, tools)
        return Prompt(token_ids, messages, tools, None, obstacle, follows.node.turn, new, begun)

    def add(
        self,
        prompt: Prompt,
        generation: Generation,
        *,
        name: str = "",
        tool_seconds: float = 0.0,
        told: Callable[[AssistantMessage], AssistantMessage] = lambda said: said,
    ) -> AssistantMessage:
        """Add the turn sampled from `prompt`.

        Args:
            prompt: as `prompt` returned it.
            generation: what the policy answered.
            name: of the turn, which no other has; IDs of calls are made of it.
            tool_seconds: time spent in tools since the turn it continues.
            told: makes of what the policy said what the caller is told and will send back, such
                as the text before a stop text.

        Returns:
            What the caller is told.
        """
        self._last = None
        said = told(
            self._renderer.parse(generation.token_ids, prompt.token_ids, prompt.tools, turn=name)
        )
        turn = self.transcript.insert(
            prompt.token_ids, generation, tool_seconds=tool_seconds, continues=prompt.continues
        )
        assert prompt._place is not None
        place = max(self._walk(prompt._place, {}), key=lambda place: place.taken)
        node = place.node
        for message in place.rest_by_message():
            node = node.add(message)
        node.add(pieces_of([said.as_message()]), turn)
        return said

    def _beginning(self, tools: Sequence[dict[str, Any]], pieces: Sequence[Piece]) -> MessageNode:
        """Where conversations with these tools under this system message begin."""
        system = tuple(piece.key for piece in pieces[: _after_system(pieces)])
        return self._beginnings.setdefault((value_of(tools), system), MessageNode((), None))

    def _deepest(self, begun: MessagePath, tokens: _SentTokens) -> MessagePath:
        """The place after the deepest turn that these messages go on from; of equally deep ones
        the newest turn's. `begun` where there is none.
        """
        best, best_rank = begun, (-1, -1)
        for place in self._walk(begun, tokens):
            turn = place.node.turn
            if turn is None or (place.taken, turn) <= best_rank:
                continue
            if place.is_between_messages():
                best, best_rank = place, (place.taken, turn)
        return best

    def _anywhere(self, begun: MessagePath, tokens: _SentTokens) -> MessagePath:
        """As `_deepest`, under whatever system message and with whatever tools."""
        best, enough = begun, self._places + _MOST_PLACES
        said = [n for n, piece in enumerate(begun.pieces) if piece.kind in ("text", "call")]
        for node in reversed(self._beginnings.values()) if said else ():
            if self._places > enough:
                break
            place = self._deepest(begun.at(node), tokens)
            if place.node.turn is None:
                continue
            if best.node.turn is None or place.taken > best.taken:
                best = place
            if place.next > said[-1]:
                break  # Nothing that the policy could have said is left.
        return best

    def _walk(self, begun: MessagePath, tokens: _SentTokens) -> Iterator[MessagePath]:
        """All places that the pieces of a conversation lead to, `begun` included."""
        places, seen = [begun], set()
        while places:
            place = places.pop()
            if place.key in seen:  # blank texts can be counted in many ways that end alike
                continue
            seen.add(place.key)
            self._places += 1
            yield place
            after = [found for node in place.node.after for found in self._after(place, node)]
            if len(after) > 1:
                after = self._meant(after, tokens)
            places += after

    def _after(self, place: MessagePath, node: MessageNode) -> Iterator[MessagePath]:
        """Places behind `node`, where what the node says comes next."""
        first, *more = node.said
        if first.kind in ("told", "output"):
            found = place.behind_texts(0).without(first)
            if found is not None:
                yield found.at(node)
            return
        calls = more if first.kind == "text" else node.said
        text = first if first.kind == "text" else _NO_TEXT
        texts = place.texts()
        for length in range(0 if calls and not text.text else 1, len(texts) + 1):
            if length and not self._same_text(texts[:length], text):
                continue
            adds_nothing = length > 1 and texts[length - 1].is_blank
            if adds_nothing and not calls and text.reasoning is None:
                continue  # it is a message of its own
            found = place.behind_texts(length)
            for call in calls:
                found = None if found is None else found.without(call)
            if found is not None:
                yield found.at(node)

    def _same_text(self, texts: Sequence[Piece], text: Piece) -> bool:
        if same_text(texts, text):
            return True
        # Markup is looked for where there could be any: to know it, the family has to render.
        if not texts[-1].text.endswith(text.text):
            return False
        return same_text(texts, text, markups_of(self._renderer))

    def _meant(self, places: list[MessagePath], tokens: _SentTokens) -> list[MessagePath]:
        """Those of the places behind messages that look alike which tokens or IDs of calls say are
        meant; all where nothing does.
        """
        if tokens:
            chosen = [place for place in places if self._has_tokens(place, tokens)]
            if chosen:
                return chosen
        chosen = [place for place in places if place.node.turn is not None and place.has_ids()]
        return chosen or places

    def _has_tokens(self, place: MessagePath, tokens: _SentTokens) -> bool:
        turn = place.node.turn
        sent = [tokens[piece.message] for piece in place.last if piece.message in tokens]
        if turn is None or not sent:
            return False
        prompt, generation = self.transcript.history(turn)
        return (prompt.tobytes(), generation.tobytes()) in sent


def _after_system(pieces: Sequence[Piece]) -> int:
    """Where a conversation goes on after the system message it begins with."""
    return next((i for i, piece in enumerate(pieces) if not piece.is_system), len(pieces))


def _new(messages: tuple[Message, ...], place: MessagePath) -> tuple[Message, ...]:
    """The messages after a place; what answers a call on the way has the ID it was told with."""
    if place.node.turn is None:
        return messages
    told = place.node.call_ids()
    new: list[Message] = []
    for pieces in place.rest_by_message():
        message, answers = messages[pieces[0].message], pieces[0].answers
        if answers is not None and answers < len(told):
            message = {**message, "tool_call_id": told[answers]}
        new.append(message)
    return tuple(new)


def _tokens(message: Message) -> tuple[bytes, bytes] | None:
    """Tokens that a message brings: those of its prompt and its generation."""
    prompt, generation = (message.get(name) for name in TOKEN_FIELDS[:2])
    if prompt is None or generation is None:
        return None
    return np.asarray(prompt, np.int32).tobytes(), np.asarray(generation, np.int32).tobytes()
