"""The renderer an agent uses, and how its family is chosen."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from renderers.base import Tokenizer

from gym_ray.errors import ConfigError
from gym_ray.renderers import BridgeImpossible, RolloutRenderer, load_renderer
from gym_ray.renderers.chatml import ChatMLRenderer
from gym_ray.renderers.tokenizers import ByteTokenizer

#: No deadline: the machine may be busy.
quick = settings(max_examples=25, deadline=None)

USER = {"role": "user", "content": "Hi."}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": "é"}}\n</tool_call>'


def tokens(text: str):
    return np.asarray(ByteTokenizer().encode(text), dtype=np.int32)


@pytest.fixture(scope="module")
def renderer() -> RolloutRenderer:
    return load_renderer(None)


class ForgetfulRenderer(ChatMLRenderer):
    """Drops a token of the history it was asked to continue."""

    def bridge_to_next_turn(self, previous_prompt_ids, previous_completion_ids, *rest, **tools):
        return super().bridge_to_next_turn(
            previous_prompt_ids, previous_completion_ids[1:], *rest, **tools
        )


class OpaqueRenderer(ChatMLRenderer):
    """Never bridges, like the library's default."""

    def bridge_to_next_turn(self, *history, **tools):
        return None


def test_the_scripted_policy_needs_no_model_files(renderer):
    assert (renderer.family, renderer.can_bridge) == ("chatml", True)
    assert renderer.stop_token_ids == (258, 256)
    prompt = renderer.render([USER])
    assert prompt.dtype == np.int32
    assert renderer.decode(prompt) == "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"


def test_a_turn_is_parsed_and_bridged(renderer):
    prompt = renderer.render([USER])
    generation = tokens(f"<think>\nhm\n</think>\n\nOne moment.\n{CALL}<|im_end|>")

    said = renderer.parse(generation, prompt)
    following = renderer.bridge(prompt, generation, [{"role": "tool", "content": "3"}])

    assert (said.content, said.reasoning) == ("One moment.", "hm")
    [call] = said.tool_calls
    assert (call.name, json.loads(call.arguments), call.error) == ("add", {"a": "é"}, None)
    assert following.dtype == np.int32
    assert np.array_equal(following[: len(prompt) + len(generation)], [*prompt, *generation])
    again = renderer.render([USER, said.as_message(), {"role": "tool", "content": "3"}])
    assert np.array_equal(following, again)


def test_call_ids_differ_within_a_rollout_and_repeat_across_runs(renderer):
    prompt = renderer.render([USER])
    generation = tokens(f"{CALL}\n{CALL}<|im_end|>")
    later = renderer.bridge(prompt, generation, [{"role": "tool", "content": "3"}])
    ids = [call.id for at in (prompt, later) for call in renderer.parse(generation, at).tool_calls]
    assert len(set(ids)) == 4
    assert ids == [
        call.id for at in (prompt, later) for call in renderer.parse(generation, at).tool_calls
    ]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<tool_call>{oops</tool_call>", "invalid_json"),
        ('<tool_call>{"name": "add"', "unclosed_block"),
        ('<tool_call>{"arguments": {}}</tool_call>', "missing_name"),
        ('<tool_call>{"name": "add", "arguments": 3}</tool_call>', "malformed_structure"),
    ],
)
def test_a_malformed_call_keeps_its_text_and_says_what_is_wrong(renderer, text, kind):
    prompt = renderer.render([USER])
    said = renderer.parse(tokens(text + "<|im_end|>"), prompt)
    [call] = said.tool_calls
    assert call.arguments == text
    assert call.error.startswith(f"{kind}: ")
    assert text in renderer.decode(renderer.render([USER, said.as_message()]))


def test_arguments_are_always_encodable_text(renderer):
    text = '<tool_call>{"name": "add", "arguments": {"a": "\\ud800"}}</tool_call>'
    [call] = renderer.parse(tokens(text), renderer.render([USER])).tool_calls
    assert call.arguments.encode()
    assert json.loads(call.arguments) == {"a": "\ud800"}


def test_a_family_that_alters_history_is_caught(renderer):
    forgetful = load_renderer(None, f"{__name__}.ForgetfulRenderer")
    with pytest.raises(BridgeImpossible, match="changed tokens of the history"):
        forgetful.bridge(forgetful.render([USER]), tokens("ab<|im_end|>"), [USER])


def test_a_family_that_cannot_bridge_says_so(renderer):
    opaque = load_renderer(None, f"{__name__}.OpaqueRenderer")
    with pytest.raises(BridgeImpossible, match="user messages"):
        opaque.bridge(opaque.render([USER]), tokens("ab<|im_end|>"), [USER])


def test_tool_cycle_retention_cannot_bridge_to_a_user_message():
    renderer = load_renderer(None, thinking_retention="tool_cycle")
    prompt, generation = renderer.render([USER]), tokens("a<|im_end|>")
    assert len(renderer.bridge(prompt, generation, [{"role": "tool", "content": "3"}]))
    with pytest.raises(BridgeImpossible):
        renderer.bridge(prompt, generation, [USER])


def test_a_model_the_library_lists_gets_the_librarys_family(monkeypatch):
    added = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "</think>")

    class Qwen(ByteTokenizer):
        name_or_path = "Qwen/Qwen3-0.6B"

        def convert_tokens_to_ids(self, name):
            return 300 + added.index(name) if name in added else super().convert_tokens_to_ids(name)

    monkeypatch.setattr("gym_ray.renderers.tokenizers.load_tokenizer", lambda path: Qwen())
    renderer = load_renderer("Qwen/Qwen3-0.6B")
    assert (renderer.family, renderer.can_bridge) == ("qwen3", True)
    assert len(renderer.bridge(renderer.render([USER]), tokens("a<|im_end|>"), [USER]))


@pytest.mark.parametrize(
    ("family", "retention", "problem"),
    [
        ("qwen33", "all", "did you mean 'qwen3'"),
        ("chatlm", "all", "did you mean 'chatml'"),
        ("", "all", "unknown renderer"),
        ("qwen3", "all", "Special token"),
        ("default", "all", "does not fit"),
        ("no.such.Renderer", "all", "No module named 'no'"),
        ("json.JSONDecoder", "all", "config_class"),
        ("chatml", "some", "'tool_cycle'"),
    ],
)
def test_a_family_that_cannot_be_used_is_a_config_error(family, retention, problem):
    with pytest.raises(ConfigError, match=problem):
        load_renderer(None, family, retention).render([USER])


def test_a_model_that_is_not_there_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="is not a directory"):
        load_renderer(str(tmp_path / "gone"))


def test_a_model_whose_tokenizer_cannot_be_read_is_a_config_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="no tokenizer could be loaded"):
        load_renderer(str(tmp_path))


def test_chatml_on_a_vocabulary_without_turn_tokens_is_a_config_error(monkeypatch):
    class Bytes(ByteTokenizer):
        def convert_tokens_to_ids(self, name):
            return None

    monkeypatch.setattr("gym_ray.renderers.tokenizers.load_tokenizer", lambda path: Bytes())
    with pytest.raises(ConfigError, match=r"no token <\|im_start\|>"):
        load_renderer("somewhere", "chatml")


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, gym_ray.renderers; "
        "print([name for name in ('renderers', 'transformers', 'torch', 'pydantic') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_byte_tokenizer_fits_the_librarys_protocol():
    assert isinstance(ByteTokenizer(), Tokenizer)


@quick
@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_bytes_give_every_text_back(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    plain = tokenizer.encode(text, split_special_tokens=True)
    assert tokenizer.decode(plain) == text
    assert plain == list(text.encode())


@quick
@given(st.lists(st.integers(-2, 1000)))
def test_bytes_decode_any_token_ids(token_ids):
    assert isinstance(ByteTokenizer().decode(token_ids), str)


def test_bytes_know_the_control_tokens():
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("a<|im_end|>") == [97, 258]
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "nope"]) == [257, None]
    assert tokenizer.decode([97, 258], skip_special_tokens=True) == "a"
    assert tokenizer.decode(258) == "<|im_end|>"
    assert tokenizer.decode([0xC3, 258, 0xA9]) == "\ufffd<|im_end|>\ufffd"
    assert tokenizer.encode("\ud800") == [ord("?")]


def test_the_vocabulary_of_a_checkpoint_holds_what_pads_its_matrices(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from gym_ray.renderers.tokenizers import ByteTokenizer, vocabulary_size

    assert vocabulary_size(ByteTokenizer()) == 259
    assert vocabulary_size(object()) == 2**31
    words = {f"w{number}": number for number in range(1500)}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert vocabulary_size(loaded) == 2048  # nobody says how many
    for config, size in (
        ({"vocab_size": 1536}, 1536),
        ({"text_config": {"vocab_size": 9999}}, 9999),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert vocabulary_size(loaded) == size
