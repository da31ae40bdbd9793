"""`gym-ray check-template`: what it finds, and its exit codes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gym_ray.cli.main import main
from gym_ray.renderers import load_renderer
from gym_ray.renderers.chatml import ChatMLRenderer
from gym_ray.renderers.check import TemplateReport, check_template
from gym_ray.renderers.renderer import RolloutRenderer
from tests.tokens.families import FAMILIES


class ChattyRenderer(ChatMLRenderer):
    """Its bridge adds a message of its own."""

    def bridge_to_next_turn(self, prompt: Any, completion: Any, messages: Any, **tools: Any) -> Any:
        extra = {"role": "user", "content": "By the way."}
        return super().bridge_to_next_turn(prompt, completion, [extra, *messages], **tools)


def continuation(report: TemplateReport) -> dict[str, str]:
    return {f.probe: f.result for f in report.findings if f.comparison == "continuation"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_continues_every_probe(
    families: dict[str, RolloutRenderer], family: str
) -> None:
    results = continuation(check_template(families[family]))

    refused = {probe for probe, result in results.items() if result not in ("exact", "kept")}
    assert refused == ({"parallel tool calls, turn 1"} if family == "llama-3" else set())


def test_a_family_that_drops_thinking_is_found_to_keep_it_when_bridging(
    families: dict[str, RolloutRenderer],
) -> None:
    results = continuation(check_template(families["qwen3.5"]))

    assert results["thinking, then a question, turn 1"] == "kept"
    assert results["thinking between tool calls, turn 2"] == "exact"


def test_a_template_of_another_family_is_shown_with_its_first_differing_tokens(
    families: dict[str, RolloutRenderer],
) -> None:
    report = check_template(families["llama-3"])

    assert not report.exact
    found = next(f for f in report.findings if f.comparison == "template")
    assert (found.result, found.difference.position) == ("differs", 0)
    assert found.difference.rendered[0] == (1, "<|im_start|>")
    assert found.difference.continued[0][1] == "<|begin_of_text|>"


def test_a_bridge_that_adds_other_tokens_than_a_render_is_a_fault() -> None:
    report = check_template(load_renderer(None, f"{__name__}.ChattyRenderer"))

    assert not report.exact
    assert set(continuation(report).values()) == {"differs"}


def run(monkeypatch: Any, capsys: Any, *arguments: str) -> tuple[Any, str, str]:
    monkeypatch.setattr(sys, "argv", ["gym-ray", "check-template", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


def test_exact_continuation_has_exit_code_zero(
    monkeypatch: Any, capsys: Any, tokenizer_directory: Path
) -> None:
    code, out, err = run(monkeypatch, capsys, str(tokenizer_directory))

    assert (code, err) == (0, "")
    assert out.endswith("Exact continuation holds.\n")


def test_a_model_that_cannot_be_continued_has_exit_code_one_and_its_findings_as_json(
    monkeypatch: Any, capsys: Any, tokenizer_directory: Path
) -> None:
    code, out, err = run(
        monkeypatch, capsys, str(tokenizer_directory), "--renderer", "default", "--json"
    )

    assert (code, "cannot be continued exactly" in err) == (1, True)
    report = json.loads(out)
    assert (report["model"], report["exact"]) == (str(tokenizer_directory), False)
    assert report["findings"][0]["result"] == "impossible"


@pytest.mark.parametrize(
    "arguments",
    [["/no/such"], ["bundled:none"], ["/no/such", "--renderer", "qwen33"], []],
)
def test_an_unknown_model_or_renderer_has_exit_code_two(
    monkeypatch: Any, capsys: Any, arguments: list[str]
) -> None:
    assert run(monkeypatch, capsys, *arguments)[0] == 2


def test_help_has_an_example(monkeypatch: Any, capsys: Any) -> None:
    code, out, _ = run(monkeypatch, capsys, "--help")

    assert (code, "gym-ray check-template bundled:smollm2-135m" in out) == (0, True)
