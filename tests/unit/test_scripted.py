"""The scripted policy: deterministic, and as strict about its arguments as a real engine."""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gym_ray.config.policy import PolicyConfig
from gym_ray.errors import ConfigError, FailureKind, RolloutFailure
from gym_ray.policies.call import Call
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.renderers.tokenizers import ByteTokenizer
from gym_ray.sampling import Sampling
from gym_ray.serving.engines import check_engine
from gym_ray.turn import Generation

STOP = 300


def shout(prompt: str, request: GenerationRequest) -> str:
    return prompt.upper()


def exact_tokens(prompt: str, request: GenerationRequest) -> Sequence[int]:
    return [7, 8, STOP]


def request(
    request_id: str = "r/1/0",
    prompt: str = "hello",
    max_output_tokens: int = 100,
    stop: tuple[str, ...] = (),
) -> GenerationRequest:
    return GenerationRequest(
        Call(
            request_id,
            Sampling(max_output_tokens=max_output_tokens, stop=stop),
            stop_token_ids=(STOP,),
        ),
        np.array(ByteTokenizer().encode(prompt), dtype=np.int32),
    )


def engine(**args: Any) -> ScriptedEngine:
    return ScriptedEngine(model="scripted", engine_args=args)


def generated(made: GenerationRequest, **args: Any) -> Generation:
    return asyncio.run(engine(**args).generate(made))


def text_of(generation: Generation) -> str:
    return ByteTokenizer().decode(generation.token_ids[:-1].tolist())


def test_it_replies_the_configured_text_and_stops() -> None:
    generation = generated(request(), reply="four = 4")

    assert text_of(generation) == "four = 4"
    assert generation.token_ids[-1] == STOP
    assert generation.stop_reason == "stop"
    assert (generation.token_ids.dtype, generation.logprobs.dtype) == (np.int32, np.float32)
    (span,) = generation.version_spans
    assert (span.start, span.end) == (0, len(generation.token_ids))


def test_logprobs_are_finite_below_zero_and_tell_a_shift_by_one() -> None:
    generation = generated(request(), reply="aaaa bbbb")

    assert np.isfinite(generation.logprobs).all()
    assert (generation.logprobs < 0).all()
    assert not np.array_equal(generation.logprobs[1:], generation.logprobs[:-1])


def test_the_same_request_gets_the_same_answer_and_another_seed_other_logprobs() -> None:
    first, again = generated(request(), reply="x"), generated(request(), reply="x")
    other = generated(request(), reply="x", seed=1)

    assert first.logprobs.tolist() == again.logprobs.tolist()
    assert first.logprobs.tolist() != other.logprobs.tolist()


def test_a_callable_may_answer_with_text_or_the_very_tokens() -> None:
    assert text_of(generated(request(), reply=f"tests.unit.{__name__}:shout")) == "HELLO"
    exact = generated(request(), reply=f"tests.unit.{__name__}:exact_tokens")
    assert exact.token_ids.tolist() == [7, 8, STOP]


def test_a_reply_that_only_looks_like_an_import_path_is_text() -> None:
    assert text_of(generated(request(), reply="Answer:four")) == "Answer:four"


def test_a_list_has_a_text_for_each_turn_and_the_last_for_all_that_follow() -> None:
    replies = ["Go", "json.decoder:loads", "Done"]
    said = [text_of(generated(request(f"r/1/{turn}"), reply=replies)) for turn in range(5)]

    assert said == ["Go", "json.decoder:loads", "Done", "Done", "Done"]
    assert text_of(generated(request("judge/j/0a1b"), reply=replies)) == "Go"


def test_the_token_limit_and_the_context_cut_the_reply() -> None:
    by_limit = generated(request(max_output_tokens=3), reply="abcdef")
    by_context = generated(request(), reply="abcdef", context_length=len("hello") + 2)

    assert (len(by_limit.token_ids), by_limit.stop_reason) == (3, "length")
    assert (len(by_context.token_ids), by_context.stop_reason) == (2, "length")


@pytest.mark.parametrize(
    ("reply", "stop", "said", "reason"),
    [
        ("one, two, three", (",",), "one,", "stop"),
        ("one, two, three", ("three", "two"), "one, two", "stop"),
        ("one, two, three", ("e, t", "two"), "one, t", "stop"),
        ("naïve café", ("é",), "naïve café", "stop"),
        ("a<|im_end|>b", ("<|im_end|>",), "a<|im_end|>", "stop"),
        ("one", ("two",), "one\N{REPLACEMENT CHARACTER}", "stop"),
        ("one, two, three", ("hree",), "one, two, th", "length"),
    ],
)
def test_a_stop_text_ends_the_reply_with_the_token_that_completes_it(
    reply: str, stop: tuple[str, ...], said: str, reason: str
) -> None:
    generation = generated(request(stop=stop, max_output_tokens=12), reply=reply)

    assert ByteTokenizer().decode(generation.token_ids.tolist()) == said
    assert generation.stop_reason == reason
    assert len(generation.logprobs) == len(generation.token_ids)


def test_a_prompt_that_leaves_no_room_is_rejected() -> None:
    with pytest.raises(RolloutFailure, match="has 5 tokens and the context holds 5") as caught:
        generated(request(), context_length=5)
    assert caught.value.kind == FailureKind.POLICY_REJECTED


async def failing(names: list[str], **args: Any) -> list[bool]:
    """Which of these requests fail."""
    made = engine(failure_rate=0.3, **args)
    calls = [made.generate(request(name)) for name in names]
    results = await asyncio.gather(*calls, return_exceptions=True)
    kinds = {result.kind for result in results if isinstance(result, RolloutFailure)}
    assert kinds == {FailureKind.POLICY_ERROR}
    return [isinstance(result, RolloutFailure) for result in results]


def test_failures_come_at_their_rate_and_always_to_the_same_requests() -> None:
    names = [f"r{number}/1/0" for number in range(300)]

    first = asyncio.run(failing(names))

    assert first == asyncio.run(failing(names))
    assert first != asyncio.run(failing(names, seed=1))
    assert 60 < sum(first) < 120
    retries = [f"r{number}/2/0" for number in range(300) if first[number]]
    assert not all(asyncio.run(failing(retries)))


def test_latency_is_spent_inside_its_range() -> None:
    started = time.perf_counter()
    generation = generated(request(), latency_seconds=[0.02, 0.04])

    assert 0.02 <= generation.generation_seconds <= time.perf_counter() - started


def test_every_request_is_logged_as_it_arrives(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"

    async def serve() -> None:
        logged = engine(request_log=str(log), context_length=5)
        await logged.start()
        for name in ("a/1/0", "b/1/0"):
            with pytest.raises(RolloutFailure):
                await logged.generate(request(name))
        await logged.check_health()
        await logged.stop()
        await logged.stop()

    asyncio.run(serve())

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["request_id"] for line in lines] == ["a/1/0", "b/1/0"]


def test_it_says_what_it_is_and_the_fingerprint_follows_the_script() -> None:
    info = asyncio.run(engine(reply="a", context_length=99).start())
    other = asyncio.run(engine(reply="b", context_length=99).start())

    assert (info.engine, info.model, info.context_length) == ("scripted", "scripted", 99)
    assert info.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"replly": "x"}, "replly: unknown key; did you mean 'reply'?"),
        ({"failure_rate": 2}, "failure_rate: Input should be less than or equal to 1"),
        ({"reply": "no.such.module:reply"}, "ModuleNotFoundError"),
        ({"reply": "json.decoder:nothing"}, "AttributeError"),
        ({"reply": "json.decoder:NaN"}, "is not callable"),
        ({"reply": []}, "write a text, or one for each turn"),
    ],
)
def test_wrong_arguments_are_refused_in_words(args: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=r"policy\.engine_args") as caught:
        engine(**args)
    assert says in str(caught.value)


def test_a_reply_beside_where_the_command_runs_is_found_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "said_here").mkdir()
    (tmp_path / "said_here" / "it.py").write_text("def yes(prompt, request): return 'yes'\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)

    policy = PolicyConfig(engine="scripted", engine_args={"reply": "said_here.it:yes"})
    check_engine(policy, section="policy", here=True)

    assert sys.path == before
