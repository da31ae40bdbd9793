"""The engine of a remote policy against a real server, scripted."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from gym_ray.agents import AGENTS, Toolbox
from gym_ray.config.environment import AgentOptions
from gym_ray.errors import ConfigError, FailureKind, RolloutFailure
from gym_ray.policies.call import Call
from gym_ray.policies.chat import ChatRequest
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.openai import OpenAIArgs, OpenAIEngine
from gym_ray.policies.openai.listening import require_server
from gym_ray.renderers import load_renderer
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.runner import Runner, RunSettings
from gym_ray.sampling import Sampling
from gym_ray.store.rows import broken_invariants
from tests.openai_server import Script, Server
from tests.replies import row_of, tool_calls
from tests.verification import on_loop
from tests.workshop import Workshop

RENDERER = load_renderer(None)
SAMPLING = Sampling(max_output_tokens=500)
QUESTION = ({"role": "user", "content": "2 + 2 = ?"},)


def serve(
    use: Callable[[OpenAIEngine, Server], Awaitable[Any]],
    script: Script | None = None,
    *,
    dead_urls: int = 0,
    **engine_args: Any,
) -> Any:
    """Run `use` with an engine that has started on a server of this script."""

    async def run() -> Any:
        async with asyncio.timeout(30), Server(script or Script()).running() as server:
            urls = [f"http://127.0.0.1:{1 + number}/v1" for number in range(dead_urls)]
            engine = OpenAIEngine(
                model="m",
                engine_args={"base_urls": [*urls, server.base_url], **engine_args},
                sampling=SAMPLING,
            )
            try:
                info = await engine.start()
                assert (info.engine, info.model, info.context_length) == ("openai", "m", 8192)
                return await use(engine, server)
            finally:
                await engine.stop()

    return asyncio.run(run())


def request(timeout_seconds: float = 10.0, **sampling: Any) -> GenerationRequest:
    prompt = RENDERER.render(list(QUESTION))
    changed = dataclasses.replace(SAMPLING, **sampling)
    call = Call("r/1/0", changed, (258,), timeout_seconds=timeout_seconds)
    return GenerationRequest(call, prompt)


async def generate(engine: OpenAIEngine, server: Server) -> Any:
    return await engine.generate(request())


async def chat(engine: OpenAIEngine, server: Server) -> Any:
    return await engine.chat(ChatRequest(Call("r/1/0", SAMPLING), QUESTION))


def failure(use: Any, script: Script | None = None, **arguments: Any) -> RolloutFailure:
    with pytest.raises(RolloutFailure) as caught:
        serve(use, script, **arguments)
    return caught.value


# Completions.


def test_completions_give_the_sampled_tokens_and_their_logprobs() -> None:
    generation = serve(generate)

    assert RENDERER.decode(generation.token_ids) == "Four.<|im_end|>"
    assert (generation.logprobs < 0).all()
    assert generation.stop_reason == "stop"


def test_every_parameter_a_server_could_have_a_default_for_is_sent() -> None:
    async def use(engine: OpenAIEngine, server: Server) -> Any:
        await engine.generate(request(stop=("x",), structural_tag="{}", top_p=0.5))
        return server.requests[-1]

    body = serve(use)
    expected = {
        "temperature": 1.0, "top_p": 0.5, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
        "stop": ["x"], "stop_token_ids": [258], "structured_outputs": {"structural_tag": "{}"},
        "return_token_ids": True, "max_tokens": 500, "model": "m",
    }  # fmt: skip
    assert {key: body[key] for key in expected} == expected
    assert "seed" not in body


@pytest.mark.parametrize(
    "ids",
    [
        [65, -1], [-(2**31)], [2**31], [10**30], [5.9], [5.0], ["5x"], [None], [True], [[65]], [{}],
        [65] * 501,
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(
    ("use", "arguments", "tells"),
    [
        (generate, {}, "ids"),
        (chat, {"api": "chat"}, "ids"),
        (chat, {"api": "chat"}, "logprobs"),
    ],
)
def test_what_is_no_token_or_more_than_was_asked_for_is_the_policys_error(
    use: Any, arguments: dict[str, Any], tells: str, ids: list[Any]
) -> None:
    script = Script(chat_tokens=tells, ids=ids)
    assert failure(use, script, **arguments).kind is FailureKind.POLICY_ERROR


def test_several_servers_never_share_a_random_stream() -> None:
    async def use(engine: OpenAIEngine, server: Server) -> Any:
        await engine.generate(request())
        await engine.generate(request())
        return [body["seed"] for body in server.requests]

    seeds = serve(use, dead_urls=1)
    assert len(set(seeds)) == 2


def test_a_server_that_is_down_costs_nothing_while_another_is_up() -> None:
    assert serve(generate, dead_urls=1).stop_reason == "stop"


@pytest.mark.parametrize("status", [429, 500, 503, 409])
def test_passing_failures_are_tried_again(status: int) -> None:
    async def use(engine: OpenAIEngine, server: Server) -> int:
        server.script.misdeeds.append(status)
        await engine.generate(request())
        return len(server.requests)

    assert serve(use) == 2


def test_a_try_that_hangs_is_given_up_and_made_again() -> None:
    async def use(engine: OpenAIEngine, server: Server) -> Any:
        server.script.misdeeds.append("hang")
        await engine.generate(request())
        return server.aborted

    assert serve(use, try_timeout_seconds=0.2) == 1


def test_tries_are_bounded_by_number_and_by_the_turns_own_time() -> None:
    async def often(engine: OpenAIEngine, server: Server) -> Any:
        server.script.misdeeds.extend([500] * 10)
        await engine.generate(request())

    async def late(engine: OpenAIEngine, server: Server) -> Any:
        server.script.misdeeds.append("hang")
        await engine.generate(request(timeout_seconds=0.3))

    gone = failure(often, max_retries=1)
    assert gone.kind == FailureKind.POLICY_UNAVAILABLE
    assert "HTTP 500: scripted (after 2 tries)" in gone.message
    slow = failure(late)
    assert slow.kind == FailureKind.POLICY_TIMEOUT
    assert "no answer within 0.3 s" in slow.message


def test_a_policy_whose_servers_are_all_gone_is_unavailable() -> None:
    async def use(engine: OpenAIEngine, server: Server) -> Any:
        for endpoint in engine._transport.endpoints.all:
            endpoint.url = "http://127.0.0.1:1/v1"
        await engine.generate(request())

    gone = failure(use, outage_seconds=0.1)
    assert gone.kind == FailureKind.POLICY_UNAVAILABLE
    assert "no policy server takes calls" in gone.message


def test_a_cancelled_call_is_aborted_at_the_server() -> None:
    async def use(engine: OpenAIEngine, server: Server) -> Any:
        server.script.misdeeds.append("hang")
        task = asyncio.ensure_future(engine.generate(request()))
        await server.received.wait()
        task.cancel()
        await server.left.wait()
        return engine._transport.endpoints.all[0].in_flight

    assert serve(use) == 0


def test_a_refused_request_is_the_rollouts_fault_and_a_refused_key_is_not() -> None:
    def refusing(status: int) -> Any:
        async def use(engine: OpenAIEngine, server: Server) -> Any:
            server.script.misdeeds.append(status)
            await engine.generate(request())

        return use

    assert failure(refusing(400)).kind == FailureKind.POLICY_REJECTED
    key = failure(refusing(401))
    assert key.kind == FailureKind.POLICY_UNAVAILABLE
    assert "api_key_env" in key.message


def test_a_prompt_that_fills_the_context_is_rejected_before_it_is_sent() -> None:
    async def use(engine: OpenAIEngine, server: Server) -> Any:
        long = dataclasses.replace(request(), prompt_token_ids=np.ones(8192, dtype=np.int32))
        await engine.generate(long)

    assert failure(use).kind == FailureKind.POLICY_REJECTED


def test_logprobs_of_another_distribution_are_found_out() -> None:
    async def use(engine: OpenAIEngine, server: Server) -> Any:
        await engine.generate(request())
        await engine.generate(request(temperature=0.7))

    refused = failure(use, Script(raw_logprobs=True))
    assert refused.kind == FailureKind.POLICY_REJECTED
    assert "--logprobs-mode processed_logprobs" in refused.message


# What stops a start.


def test_a_server_without_completions_is_refused_with_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"policy\.engine_args\.api=chat"):
        serve(generate, Script(completions=False))


def test_a_model_the_server_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(ConfigError, match=r"policy.engine_args.model to one of: m"):
        serve(generate, model="other")


def test_a_refused_or_missing_key_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="MY_KEY is not set"):
        serve(generate, api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "wrong")
    with pytest.raises(ConfigError, match="environment variable MY_KEY"):
        serve(generate, api_key_env="MY_KEY")


def test_servers_that_are_all_down_stop_the_start() -> None:
    async def start() -> None:
        args = {"base_urls": ["http://127.0.0.1:1/v1"]}
        engine = OpenAIEngine(model="m", engine_args=args, sampling=SAMPLING)
        try:
            await engine.start()
        finally:
            await engine.stop()

    with pytest.raises(ConfigError, match=r"no server of .*base_urls is up"):
        asyncio.run(start())


@pytest.mark.parametrize(
    ("engine_args", "says"),
    [
        ({"base_urls": ["http://a/v1"], "max_retry": 1}, "did you mean 'max_retries'"),
        ({"base_urls": ["http://a"]}, "must look like http://HOST:PORT/v1"),
        ({}, "policy.engine_args.base_urls: Field required"),
        ({"base_urls": []}, "base_urls"),
    ],
)
def test_wrong_arguments_are_refused_in_words(engine_args: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
        OpenAIArgs.parse(engine_args)


# Chat.


@pytest.mark.parametrize("tells", ["ids", "logprobs"])
def test_chat_tells_tokens_by_either_of_two_ways(tells: str) -> None:
    answer = serve(chat, Script(chat_tokens=tells), api="chat")

    assert answer.message.content == "Four."
    assert RENDERER.decode(answer.generation.token_ids) == "Four.<|im_end|>"
    assert np.array_equal(answer.prompt_token_ids, RENDERER.render(list(QUESTION)))


def test_chat_without_tokens_has_text_and_counts() -> None:
    answer = serve(chat, Script(chat_tokens="none"), api="chat")

    assert (answer.message.content, answer.generation) == ("Four.", None)
    assert (answer.prompt_tokens > 0, answer.output_tokens) == (True, 6)


@pytest.mark.parametrize("wish", [{"top_k": 5}, {"structural_tag": "{}"}])
def test_what_a_plain_server_has_no_word_for_is_refused_not_dropped(wish: dict[str, Any]) -> None:
    async def use(engine: OpenAIEngine, server: Server) -> Any:
        sampling = dataclasses.replace(SAMPLING, **wish)
        return await engine.chat(ChatRequest(Call("r/1/0", sampling), QUESTION))

    refused = failure(use, Script(chat_tokens="none"), api="chat")

    assert refused.kind == FailureKind.POLICY_REJECTED
    assert "no top_k and no guided decoding" in refused.message


# Whole rollouts.


def play(script: Script, *replies: str, **engine_args: Any) -> Rollout:
    """One rollout of `tool_calling` whose policy says these replies."""
    spec = RolloutSpec(
        "r", "t", 0, 0, "workshop", "tasks.jsonl", 1, json.dumps(row_of(list(replies)))
    )
    script = dataclasses.replace(script, reply="tests.replies:turns_in_the_prompt")

    async def use(engine: OpenAIEngine, server: Server) -> Rollout:
        environment, options = Workshop(), AgentOptions()
        chatting = engine.args.api == "chat"
        runner = Runner(
            environment=environment,
            agent_name="tool_calling",
            agent=AGENTS["tool_calling"],
            renderer=None if chatting else RENDERER,
            model="m",
            generate=engine.generate,
            chat=engine.chat if chatting else None,
            verification=on_loop(environment),
            agent_options=options,
            toolbox=Toolbox(environment, options),
        )
        return await runner.run(spec, RunSettings("run", SAMPLING, 20.0), attempt=1)

    rollout: Rollout = serve(use, script, **engine_args)
    assert broken_invariants([rollout]) == []
    return rollout


#: Spaced as no template would, so that rendering the history anew gives other tokens.
CALL = tool_calls(("add", {"a": 1, "b": 2}), ("count", {})).replace('": ', '":  ')


def test_agents_get_the_same_tokens_by_either_api() -> None:
    tokens = play(Script(), CALL, CALL, "It is 3.")
    messages = play(Script(), CALL, CALL, "It is 3.", api="chat")

    assert (tokens.error, messages.error) == (None, None)
    assert (tokens.reward, messages.reward) == (2.0, 2.0)
    assert len(tokens.turns) == len(messages.turns) == 3
    assert tokens.has_tokens
    assert np.array_equal(tokens.token_ids, messages.token_ids)
    assert np.array_equal(tokens.loss_mask, messages.loss_mask)


def test_agents_work_without_tokens() -> None:
    rollout = play(Script(chat_tokens="none"), CALL, CALL, "It is 3.", api="chat")

    assert (rollout.status, rollout.error, rollout.reward) == ("completed", None, 2.0)
    assert (rollout.has_tokens, rollout.without_token_ids, len(rollout.turns)) == (False, True, 3)
    assert rollout.sampled_tokens > 0
    items = json.loads(rollout.response)
    outputs = [item["output"] for item in items if item["type"] == "function_call_output"]
    assert outputs[0] == "3"
    calls = [item["call_id"] for item in items if item["type"] == "function_call"]
    assert len(set(calls)) == 4


def test_a_history_rendered_anew_is_never_accepted() -> None:
    rollout = play(Script(honors_prefix=False), CALL, "It is 3.", api="chat")

    assert rollout.error_kind == FailureKind.POLICY_ERROR
    assert rollout.error is not None
    assert "policy.engine_args.api=completions" in rollout.error


def test_that_no_server_listens_is_said_before_anything_starts() -> None:
    with socket.socket() as up, socket.socket() as down:
        up.bind(("127.0.0.1", 0))
        up.listen()
        down.bind(("127.0.0.1", 0))  # Nobody listens there.
        urls = [f"http://127.0.0.1:{one.getsockname()[1]}/v1" for one in (up, down)]
        require_server(OpenAIArgs.parse({"base_urls": urls}))
        require_server(OpenAIArgs.parse({"base_urls": urls[:1]}))

        with pytest.raises(ConfigError, match=r"no server of judges\.j\.engine_args\.base_urls"):
            require_server(OpenAIArgs.parse({"base_urls": urls[1:]}), section="judges.j")
