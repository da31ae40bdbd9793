"""A server that speaks OpenAI's API, scripted: completions over tokens, chat with and without them.

It is the scripted engine over HTTP. `python -m tests.openai_server` runs one for other processes
and prints its base address.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from aiohttp import web

from gym_ray.errors import RolloutFailure
from gym_ray.policies.call import Call
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.renderers import load_renderer
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.sampling import Sampling
from gym_ray.turn import Generation

#: How engines that examine a server are told from those that use it.
PROBE_TOKENS = 4

_TOKEN_FIELDS = ("return_token_ids", "return_tokens_as_token_ids", "top_k", "min_p")


@dataclasses.dataclass
class Script:
    """How the server behaves.

    Attributes:
        tokenizer: of the model it serves; None for the byte-level one.
        reply: as that of the scripted engine.
        chat_tokens: chat answers have `token_ids` (`ids`), only `token_id:N` logprobs (`logprobs`),
            or the server refuses fields that are not OpenAI's (`none`).
        honors_prefix: `required_prefix_token_ids` is continued; else history is rendered anew.
        raw_logprobs: logprobs are not of the distribution sampled from.
        completions: there is a route `/completions`.
        ids: in place of the token IDs that were sampled, with a logprob each.
        misdeeds: what is done instead of answering, once each: a status, or `hang`.
    """

    tokenizer: str | None = None
    reply: str = "Four."
    chat_tokens: str = "ids"
    honors_prefix: bool = True
    raw_logprobs: bool = False
    completions: bool = True
    ids: list[Any] | None = None
    misdeeds: deque[int | str] = dataclasses.field(default_factory=deque)


class Server:
    """The server.

    Attributes:
        script: may be changed while it runs.
        requests: bodies of the calls so far, those of probes apart.
        aborted: calls whose client left.
        received, left: set when the first call comes, and when the first client leaves.
        base_url: ends in `/v1`; set once it runs.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.aborted = 0
        self.received = asyncio.Event()
        self.left = asyncio.Event()
        self.base_url = ""
        self._renderer: RolloutRenderer = load_renderer(script.tokenizer)
        self._engine = ScriptedEngine(
            model="m", engine_args={"reply": "Four.", "context_length": 8192}
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        app = web.Application(client_max_size=2**30)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/tokenize", self._tokenize)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") == "Bearer wrong":
            return _error(401, "no such key")
        card = {"id": "m", "owned_by": "tests", "root": "m", "max_model_len": 8192}
        return web.json_response({"data": [card]})

    async def _completions(self, request: web.Request) -> web.Response:
        if not self.script.completions:
            return _error(404, "no such route")
        body = await request.json()
        if (answer := await self._received(body)) is not None:
            return answer
        prompt = np.asarray(body["prompt"], dtype=np.int32)
        try:
            generation = await self._sample(prompt, body, body["max_tokens"])
        except RolloutFailure as failure:
            return _error(400, failure.message)
        choice = {
            "text": self._renderer.decode(generation.token_ids),
            "finish_reason": generation.stop_reason,
            "token_ids": generation.token_ids.tolist(),
            "prompt_token_ids": prompt.tolist(),
            "logprobs": {
                "tokens": _names(generation),
                "token_logprobs": self._logprobs(generation, body),
            },
        }
        if (ids := self._invented(body)) is not None:
            names = [f"token_id:{one}" for one in ids]
            choice["token_ids"] = ids
            choice["logprobs"] = {"tokens": names, "token_logprobs": [-0.5] * len(ids)}
        return web.json_response({"choices": [choice], "usage": _usage(prompt, generation)})

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        tells = self.script.chat_tokens
        if tells == "none" and (odd := [field for field in _TOKEN_FIELDS if field in body]):
            return _error(400, f"unrecognized arguments: {odd}")
        if (answer := await self._received(body)) is not None:
            return answer
        prompt = self._prompt(body)
        generation = await self._sample(prompt, body, body["max_tokens"])
        said = self._renderer.parse(generation.token_ids, prompt, body.get("tools", ()))
        message: dict[str, Any] = {"role": "assistant", "content": said.content}
        if said.reasoning is not None:
            message["reasoning"] = said.reasoning
        calls = said.as_message().get("tool_calls", ())
        if calls:
            message["tool_calls"] = [{**call, "id": f"call_{i}"} for i, call in enumerate(calls)]
        reason = generation.stop_reason
        choice: dict[str, Any] = {
            "message": message,
            "finish_reason": "tool_calls" if calls and reason == "stop" else reason,
        }
        answer_body = {"choices": [choice], "usage": _usage(prompt, generation)}
        if tells != "none":
            logprobs = zip(_names(generation), self._logprobs(generation, body), strict=True)
            choice["logprobs"] = {"content": [{"token": n, "logprob": p} for n, p in logprobs]}
        if tells == "ids":
            choice["token_ids"] = generation.token_ids.tolist()
            answer_body["prompt_token_ids"] = prompt.tolist()
        if tells != "none" and (ids := self._invented(body)) is not None:
            entries = [{"token": f"token_id:{one}", "logprob": -0.5} for one in ids]
            choice["logprobs"] = {"content": entries}
            if tells == "ids":
                choice["token_ids"] = ids
        return web.json_response(answer_body)

    async def _tokenize(self, request: web.Request) -> web.Response:
        if self.script.chat_tokens == "none":
            return _error(404, "no such route")
        return web.json_response({"tokens": self._prompt(await request.json()).tolist()})

    def _invented(self, body: dict[str, Any]) -> list[Any] | None:
        return None if body["max_tokens"] == PROBE_TOKENS else self.script.ids

    async def _received(self, body: dict[str, Any]) -> web.Response | None:
        if body["max_tokens"] == PROBE_TOKENS:
            return None
        self.requests.append(body)
        self.received.set()
        if not self.script.misdeeds:
            return None
        misdeed = self.script.misdeeds.popleft()
        if misdeed == "hang":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.aborted += 1
                self.left.set()
                raise
        headers = {"Retry-After": "0.1"} if misdeed == 429 else {}
        return _error(int(misdeed), "scripted", headers)

    async def _sample(
        self, prompt: np.ndarray[Any, Any], body: dict[str, Any], max_tokens: int
    ) -> Generation:
        request_id = f"r/1/{self._renderer.decode(prompt).count('<|im_start|>assistant') - 1}"
        stops = tuple(self._renderer.stop_token_ids)
        sampling = Sampling(max_output_tokens=max_tokens)
        request = GenerationRequest(Call(request_id, sampling, stops, body.get("seed")), prompt)
        self._engine._reply = self._reply
        return await self._engine.generate(request)

    def _reply(self, _: str, request: GenerationRequest) -> Any:
        from gym_ray.policies.scripted import load_reply

        probe = request.call.sampling.max_output_tokens == PROBE_TOKENS
        reply = "Four." if probe else load_reply(self.script.reply)
        prompt = self._renderer.decode(request.prompt_token_ids)
        text = reply if isinstance(reply, str) else reply(prompt, request)
        assert isinstance(text, str)
        # Letter by letter, as no tokenizer would: rendering the text again gives other tokens.
        tokenizer = self._renderer._tokenizer
        letters = [t for letter in text for t in tokenizer.encode(letter, add_special_tokens=False)]
        return [*letters, self._renderer.stop_token_ids[0]]

    def _logprobs(self, generation: Generation, body: dict[str, Any]) -> list[float]:
        if body.get("top_k") == 1 and not self.script.raw_logprobs:
            return [0.0] * len(generation.token_ids)
        return [float(value) for value in generation.logprobs]

    def _prompt(self, body: dict[str, Any]) -> np.ndarray[Any, Any]:
        rendered = self._renderer.render(body["messages"], body.get("tools", ()))
        prefix = body.get("required_prefix_token_ids")
        if not prefix or not self.script.honors_prefix:
            return rendered
        # The splice of NeMo RL: the prefix, then what the template has after its last turn end.
        end = self._renderer.stop_token_ids[0]
        last = max(
            index
            for index, message in enumerate(body["messages"])
            if message["role"] == "assistant"
        )
        history = self._renderer.render_closed(body["messages"][: last + 1], body.get("tools", ()))
        count = int(np.count_nonzero(history == end))
        cut = int(np.flatnonzero(rendered == end)[count - 1])
        kept = prefix[:-1] if prefix[-1] == end else prefix
        return np.concatenate([np.asarray(kept, dtype=np.int32), rendered[cut:]])


def _names(generation: Generation) -> list[str]:
    return [f"token_id:{token}" for token in generation.token_ids]


def _usage(prompt: np.ndarray[Any, Any], generation: Generation) -> dict[str, int]:
    return {"prompt_tokens": len(prompt), "completion_tokens": len(generation.token_ids)}


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"error": {"message": message, "type": "error", "code": status}}
    return web.json_response(body, status=status, headers=headers)


async def _main() -> None:
    script = Script(**json.loads(sys.argv[1]))
    async with Server(script).running() as server:
        print(server.base_url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    asyncio.run(_main())
