"""The engine of a remote policy: examines its servers, then passes calls on to them.

Owned here: what a server must be able to do before it gets a call, and seeds. What is told
apart at the start, by asking for a token or two:

* whether the server has the token path (`api: completions`), or returns token IDs at all (`chat`);
* whether its logprobs are those of the distribution sampled from: of a token drawn with
  `top_k` 1 that logprob is 0, and a server started without `--logprobs-mode
  processed_logprobs` says something else. Such a server only gets calls for which the two are
  the same.

What is not told apart: a server that lies, and weights that change behind its address.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import random
import secrets
from collections.abc import Mapping
from typing import Any

import aiohttp
import numpy as np

from gym_ray.errors import ConfigError, FailureKind, RolloutFailure, one_line
from gym_ray.policies.call import Call
from gym_ray.policies.chat import ChatAnswer, ChatRequest
from gym_ray.policies.engine import GenerationRequest, PolicyInfo
from gym_ray.policies.openai import chat, completions
from gym_ray.policies.openai.arguments import OpenAIArgs
from gym_ray.policies.openai.endpoints import Endpoint
from gym_ray.policies.openai.tokens import failed, generation_of, is_plain, require_limit
from gym_ray.policies.openai.transport import EndpointRefused, EndpointTransport, key_advice
from gym_ray.renderers.messages import call_id_prefix
from gym_ray.sampling import Sampling
from gym_ray.turn import Generation, Tokens

logger = logging.getLogger(__name__)

#: Tokens asked for when a server is examined.
_PROBE_TOKENS = 4

#: With `top_k` 1, a logprob below this is not that of the distribution sampled from.
_CERTAIN = -1e-4

_LOGPROBS_ADVICE = (
    "start the server with --logprobs-mode processed_logprobs, or sample with temperature 1 and "
    "without top_p, top_k and guided decoding"
)


class OpenAIEngine:
    """The engine protocol over HTTP, with `chat` beside it.

    Args:
        model: `policy.model` of the config.
        engine_args: see `OpenAIArgs`.
        sampling: the run's, used to examine servers: some take calls with only this one.

    Raises:
        ConfigError: an argument is wrong, or the key is not there.
    """

    def __init__(self, *, model: str, engine_args: Mapping[str, Any], sampling: Sampling) -> None:
        self.args = OpenAIArgs.parse(engine_args)
        self._model = model
        self._remote_model = self.args.model or model
        self._probe_sampling = dataclasses.replace(sampling, max_output_tokens=_PROBE_TOKENS)
        self._transport = EndpointTransport(self.args, self._examine)
        self._seed = secrets.randbits(32)
        self._random = random.Random(self._seed)
        self._context_length = self.args.context_length or 0
        self._described: set[str] = set()
        self._dialect: chat.Dialect | None = None
        self._raw_logprobs = False
        self._has_tokenize = True

    async def start(self) -> PolicyInfo:
        """Examine the servers.

        Raises:
            ConfigError: one does not fit, or none is up.
        """
        await self._transport.start()
        described = f"{self._remote_model} {' '.join(sorted(self._described))}"
        return PolicyInfo(
            engine="openai",
            engine_version=self.args.api,
            model=self._model,
            fingerprint=hashlib.sha256(described.encode()).hexdigest()[:16],
            context_length=self._context_length,
            seed=self._seed,
        )

    async def generate(self, request: GenerationRequest) -> Generation:
        """Sample one continuation; see `Engine.generate`."""
        if self.args.api != "completions":
            raise _rejected("policy.engine_args.api is chat: it takes messages, not tokens")
        self._require_exact(request.call.sampling)
        prompt = request.prompt_token_ids
        limit = request.call.sampling.max_output_tokens
        if self._context_length:
            limit = min(limit, self._context_length - len(prompt))
        if limit < 1:
            raise _rejected(
                f"the prompt's {len(prompt)} tokens leave no room to generate: "
                f"the context holds {self._context_length} tokens"
            )
        body = completions.body_of(
            request,
            model=self._remote_model,
            max_tokens=limit,
            seed=self._seed_of(request.call.seed),
        )
        reply = await self._transport.post(
            completions.PATH, body, timeout_seconds=request.call.timeout_seconds
        )
        generation = completions.generation(reply.body, prompt, reply.seconds)
        require_limit(generation.token_ids, limit)
        return generation

    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """One turn of a conversation; see `ChatEngine.chat`."""
        if self.args.api != "chat" or self._dialect is None:
            raise _rejected("policy.engine_args.api is completions: it takes tokens, not messages")
        if not self._dialect.token_fields:
            _require_expressible(request.call.sampling)
        body = chat.body_of(
            request,
            model=self._remote_model,
            seed=self._seed_of(request.call.seed)
            if self._dialect.token_fields
            else request.call.seed,
            dialect=self._dialect,
        )
        reply = await self._transport.post(
            chat.PATH, body, timeout_seconds=request.call.timeout_seconds
        )
        said = chat.read(reply.body, call_id_prefix=call_id_prefix(request.call.request_id))
        if said.token_ids is not None:
            require_limit(said.token_ids, request.call.sampling.max_output_tokens)
        prompt = said.prompt_token_ids
        if said.token_ids is not None and prompt is None:
            prompt = await self._tokenized(request, reply.endpoint)
        answer = ChatAnswer(
            message=said.message,
            stop_reason=said.stop_reason,
            prompt_token_ids=None,
            generation=None,
            prompt_tokens=said.prompt_tokens,
            output_tokens=said.output_tokens,
            seconds=reply.seconds,
        )
        if said.token_ids is None or prompt is None:
            return answer
        self._require_exact(request.call.sampling)
        _require_prefix(chat.required_prefix(request), prompt)
        return dataclasses.replace(
            answer,
            prompt_token_ids=prompt,
            generation=generation_of(
                said.token_ids, said.logprobs, said.stop_reason, reply.seconds
            ),
            prompt_tokens=len(prompt),
            output_tokens=len(said.token_ids),
        )

    async def check_health(self) -> None:
        """Servers that are down are no fault of this replica; a new one would not help."""

    async def stop(self) -> None:
        await self._transport.stop()

    def _seed_of(self, seed: int | None) -> int | None:
        """Several vLLM servers start with one seed unless told otherwise, and would then sample
        the same tokens for the same prompt; with one server its own stream will do."""
        if seed is None and len(self.args.base_urls) > 1:
            return self._random.getrandbits(63)
        return seed

    def _require_exact(self, sampling: Sampling) -> None:
        if self._raw_logprobs and not is_plain(sampling):
            raise _rejected(
                "the server's logprobs are not those of the distribution it samples from; "
                + _LOGPROBS_ADVICE
            )

    async def _tokenized(self, request: ChatRequest, endpoint: Endpoint) -> Tokens | None:
        """The prompt's tokens, from the server that answered; None when it cannot tell."""
        if not self._has_tokenize:
            return None
        body = chat.tokenize_body(request, model=self._remote_model)
        try:
            return chat.prompt_tokens(await self._transport.ask(endpoint, chat.TOKENIZE_PATH, body))
        except EndpointRefused as error:
            if error.status not in (404, 405):
                raise failed(f"/tokenize: HTTP {error.status}: {error.message}") from error
            self._has_tokenize = False
            logger.warning("%s has no /tokenize: rollouts have no tokens", endpoint.url)
            return None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise RolloutFailure(FailureKind.POLICY_UNAVAILABLE, one_line(error)) from error

    # Examining a server.

    async def _examine(self, endpoint: Endpoint) -> None:
        try:
            await self._examine_model(endpoint)
            if self.args.api == "completions":
                await self._examine_completions(endpoint)
            else:
                await self._examine_chat(endpoint)
        except EndpointRefused as refused:
            if refused.status in (408, 409, 429) or refused.status >= 500:
                raise  # not up, for now
            advice = ""
            if refused.status in (401, 403):
                advice = f"; {key_advice(self.args)}"
            elif self.args.api == "completions":
                advice = (
                    "; a server without completions over token prompts needs "
                    "policy.engine_args.api=chat"
                )
            raise ConfigError(
                f"{endpoint.url}: HTTP {refused.status}: {refused.message}{advice}"
            ) from None

    async def _examine_model(self, endpoint: Endpoint) -> None:
        try:
            listed = await self._transport.ask(endpoint, "/models")
        except EndpointRefused as refused:
            if refused.status in (404, 405):  # Not every server lists its models.
                return
            raise
        cards = [card for card in listed.get("data") or () if isinstance(card, dict)]
        names = [str(card.get("id")) for card in cards]
        if names and self._remote_model not in names:
            raise ConfigError(
                f"{endpoint.url} does not serve {self._remote_model!r}; set "
                f"policy.engine_args.model to one of: {', '.join(names[:20])}"
            )
        for card in cards:
            if card.get("id") != self._remote_model:
                continue
            self._described.add(f"{card.get('root')} {card.get('owned_by')}")
            length = card.get("max_model_len")
            if self.args.context_length is None and isinstance(length, int) and length > 0:
                known = self._context_length or length
                self._context_length = min(known, length)

    async def _examine_completions(self, endpoint: Endpoint) -> None:
        prompt = np.asarray([1, 1], dtype=np.int32)

        async def sample(sampling: Sampling) -> Generation:
            request = GenerationRequest(Call("probe", sampling), prompt)
            body = completions.body_of(
                request, model=self._remote_model, max_tokens=_PROBE_TOKENS, seed=None
            )
            answer = await self._transport.ask(endpoint, completions.PATH, body)
            return completions.generation(answer, prompt, 0.0)

        try:
            await sample(self._probe_sampling)
        except RolloutFailure as failure:
            raise ConfigError(f"{endpoint.url}: {failure.message}") from None
        with contextlib.suppress(EndpointRefused, RolloutFailure):  # it samples in one way only
            certain = await sample(_certain(self._probe_sampling))
            self._note_logprobs(endpoint, certain)

    async def _examine_chat(self, endpoint: Endpoint) -> None:
        request = ChatRequest(
            Call("probe", self._probe_sampling), ({"role": "user", "content": "Hi"},)
        )
        dialects = chat.DIALECTS if self._dialect is None else (self._dialect,)
        for last, dialect in enumerate(dialects, start=1 - len(dialects)):
            body = chat.body_of(request, model=self._remote_model, seed=None, dialect=dialect)
            try:
                answer = await self._transport.ask(endpoint, chat.PATH, body)
            except EndpointRefused as refused:
                if last == 0 or refused.status not in (400, 422):
                    raise
                continue
            try:
                said = chat.read(answer, call_id_prefix="call")
            except RolloutFailure as failure:
                raise ConfigError(f"{endpoint.url}: {failure.message}") from None
            break
        self._dialect = dialect
        if said.token_ids is None:
            logger.warning("%s returns no token IDs: rollouts serve SFT and DPO only", endpoint.url)
            return
        certain_request = request.with_sampling(_certain(self._probe_sampling))
        body = chat.body_of(certain_request, model=self._remote_model, seed=None, dialect=dialect)
        with contextlib.suppress(EndpointRefused, RolloutFailure):  # it samples in one way only
            answer = await self._transport.ask(endpoint, chat.PATH, body)
            said = chat.read(answer, call_id_prefix="call")
            if said.token_ids is not None:
                self._note_logprobs(
                    endpoint, generation_of(said.token_ids, said.logprobs, "stop", 0.0)
                )

    def _note_logprobs(self, endpoint: Endpoint, certain: Generation) -> None:
        if len(certain.logprobs) and certain.logprobs.min() < _CERTAIN:
            self._raw_logprobs = True
            logger.warning(
                "%s returns logprobs of another distribution than it samples from; %s",
                endpoint.url, _LOGPROBS_ADVICE,
            )  # fmt: skip


def _certain(sampling: Sampling) -> Sampling:
    """The same with all mass on one token, whose logprob is then 0."""
    return dataclasses.replace(sampling, temperature=1.0, top_k=1)


def _require_prefix(prefix: Tokens | None, prompt: Tokens) -> None:
    if prefix is None or np.array_equal(prompt[: len(prefix)], prefix):
        return
    raise failed(
        "the server rendered the history anew instead of continuing the tokens it sampled "
        "(it does not honor required_prefix_token_ids); set policy.engine_args.api=completions"
    )


def _require_expressible(sampling: Sampling) -> None:
    """The row names the distribution, so none may be dropped on the way."""
    if sampling.top_k is not None or sampling.grammar or sampling.structural_tag:
        raise _rejected(
            "the server takes OpenAI's own parameters only, which have no top_k and no guided "
            "decoding; leave them out"
        )


def _rejected(message: str) -> RolloutFailure:
    return RolloutFailure(FailureKind.POLICY_REJECTED, message)
