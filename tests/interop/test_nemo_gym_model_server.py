"""NeMo Gym's own model server (`responses_api_models/vllm_model`) with our gateway as its vLLM.

What it sends upstream, and what it needs back (nemo-gym 0.7.0):

* `POST {base_url}/chat/completions` with `Authorization: Bearer KEY`, and with
  `return_token_id_information` also `logprobs: true`, `top_logprobs: 0` and
  `return_tokens_as_token_ids: true`; with `request_prompt_and_generation_token_ids` also
  `return_token_ids: true`. `strict` is taken out of tools.
* Tokens of the answer, first of these that is there: all three token fields on the message;
  `prompt_token_ids` of the response and `token_ids` of the choice, one without the other being
  an error; `token_id:N` in `logprobs.content[].token`, and the prompt's from
  `POST {base_url without /v1}/tokenize` with model, messages and tools of the same request.
* History: the assistant messages it sends carry the token fields its client sent back.

It is started by itself, as `gym env start` starts it, in the environment that
`scripts/nemo-gym.sh` makes; it runs on Python 3.11 unchanged although the package asks for
3.13.14.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gym_ray.gateway.app import GatewaySettings, create_app
from gym_ray.gateway.token_chat import TokenPolicy
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.renderers import load_renderer, messages_from_items, tools_for_chat
from gym_ray.sampling import Sampling
from gym_ray.turn import Generation
from tests.gateway.conftest import serving

pytestmark = pytest.mark.long("Needs NeMo Gym in an environment of its own, a minute to make.")

PYTHON = Path(__file__).parents[2] / ".nemo-gym" / "bin" / "python"
KEY = "the-key"
START_SECONDS = 90.0
TOOL = {
    "type": "function",
    "name": "add",
    "description": "Sum of two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "strict": True,
}
#: Written as no template writes it, so that rendering it anew would give other tokens.
CALL = '<tool_call>{"arguments":{"b":2,   "a":40},"name":"add"}</tool_call>'


def reply(prompt: str, request: GenerationRequest) -> str:
    """First a call of the tool, then what the tool said."""
    results = re.findall(r"<tool_response>\n(.*?)\n</tool_response>", prompt, re.S)
    return f"The sum is {results[-1]}, naïvely." if results else f"Adding. {CALL}"


@contextlib.contextmanager
def gateway() -> Iterator[tuple[str, list[tuple[GenerationRequest, Generation]]]]:
    """URL of a gateway, and what its engine was asked and sampled."""
    engine = ScriptedEngine(model="policy", engine_args={"reply": f"{__name__}:reply"})
    calls: list[tuple[GenerationRequest, Generation]] = []

    async def generate(request: GenerationRequest) -> Generation:
        calls.append((request, await engine.generate(request)))
        return calls[-1][1]

    policy = TokenPolicy(
        asyncio.run(engine.start()), load_renderer(None, "chatml"), Sampling(), generate
    )
    with serving(create_app(policy=policy, settings=GatewaySettings(api_key=KEY))) as url:
        yield url, calls


@contextlib.contextmanager
def model_server(upstream: str, folder: Path, **settings: Any) -> Iterator[str]:
    """URL of NeMo Gym's model server, a process of its own pointed at `upstream`."""
    assert PYTHON.exists(), "run scripts/nemo-gym.sh (scripts/test.sh all interop does)"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = {
        "entrypoint": "app.py",
        "host": "127.0.0.1",
        "port": port,
        "base_url": f"{upstream}/v1",
        "api_key": KEY,
        "model": "policy",
        "return_token_id_information": True,
        "uses_reasoning_parser": True,
        **settings,
    }
    config = {
        "head_server": {"host": "127.0.0.1", "port": 1},
        "dry_run": False,
        "policy_model": {"responses_api_models": {"vllm_model": server}},
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(PYTHON), "-m", "responses_api_models.vllm_model.app"],
            env={
                **environment,
                "NEMO_GYM_CONFIG_DICT": json.dumps(config),
                "NEMO_GYM_CONFIG_PATH": "policy_model",
            },
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_healthy(process, f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)


def respond(url: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Output items of one model call, as a NeMo Gym agent makes it."""
    request = urllib.request.Request(
        f"{url}/v1/responses",
        data=json.dumps({"input": items, "tools": [TOOL]}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            output: list[dict[str, Any]] = json.load(response)["output"]
            return output
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error


@pytest.mark.parametrize("inline", [False, True], ids=["tokens by /tokenize", "tokens inline"])
def test_two_turns_with_a_tool_bring_the_tokens_the_engine_sampled(
    inline: bool, tmp_path: Path
) -> None:
    with (
        gateway() as (upstream, calls),
        model_server(upstream, tmp_path, request_prompt_and_generation_token_ids=inline) as server,
    ):
        asked = [{"role": "user", "content": "What is 40 + 2?"}]
        first = respond(server, asked)
        call = first[-1]
        assert (call["type"], call["name"]) == ("function_call", "add")
        assert json.loads(call["arguments"]) == {"a": 40, "b": 2}
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
        second = respond(server, [*asked, *first, result])

    assert second[-1]["content"][0]["text"] == "The sum is 42, naïvely."
    assert len(calls) == 2
    for items, (request, generation) in zip((first, second), calls, strict=True):
        assert items[-1]["prompt_token_ids"] == request.prompt_token_ids.tolist()
        assert items[-1]["generation_token_ids"] == generation.token_ids.tolist()
        assert items[-1]["generation_log_probs"] == pytest.approx(
            generation.logprobs.tolist(), abs=1e-6
        )
    # Rendered anew, the same history has other tokens: the call is not written as a template would.
    messages = messages_from_items([*asked, *first, result])
    anew = load_renderer(None, "chatml").render(messages, tools_for_chat([TOOL]))
    assert second[-1]["prompt_token_ids"] != anew.tolist()
    history = call["prompt_token_ids"] + call["generation_token_ids"]
    assert second[-1]["prompt_token_ids"][: len(history)] == history
