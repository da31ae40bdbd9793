"""Verdicts of judges: what is asked, in which order, and what the reply is worth."""

import json
from pathlib import Path
from typing import Any

import pytest

from gym_ray.authoring import check_environment
from gym_ray.config.load import load_config
from gym_ray.environment import Environment
from gym_ray.environments.judge import JudgeEnvironment
from gym_ray.environments.math import MathEnvironment
from gym_ray.errors import ConfigError, FailureKind, RolloutFailure
from gym_ray.registry import load_environment, require_judges
from gym_ray.renderers import load_renderer
from gym_ray.sampling import Sampling
from gym_ray.verdict import Verdict
from tests.environments.judging import example_rows, refusal, task_of
from tests.judges import CannedJudge, scripted_judge, verdict_of

RATING = {"template": "{prompt}|{rubric}|{response}", "score": {"low": 1, "high": 5}}
COMPARISON = {
    "template": "1: {first} 2: {second}",
    "reference": "gold",
    "score": {"form": "labels", "labels": {"[[A]]": 1, "[[B]]": 0, "[[C]]": 0.5}},
}


def rated(
    params: dict[str, Any], row: dict[str, Any], reply: str, *says: str
) -> tuple[Verdict, CannedJudge]:
    environment = JudgeEnvironment(judge="grader", **params)
    judge = CannedJudge(*says)
    environment.judges = {"grader": judge}
    task = task_of(row)
    environment.check_task(task.row)
    return verdict_of(environment, task, reply), judge


def test_a_rating_becomes_a_reward_from_0_to_1_and_the_judge_saw_all_there_is() -> None:
    verdict, judge = rated(
        {**RATING, "system": "Grade {topic.name}."},
        {"rubric": "short", "topic": {"name": "poems"}},
        "Roses {rubric}",
        "Good. [[4]]",
    )

    assert verdict.reward == 0.75  # (4 - 1) / (5 - 1)
    assert verdict.metrics["judge_score"] == 0.75
    assert judge.asked == [
        [
            {"role": "system", "content": "Grade poems."},
            {"role": "user", "content": "?|short|Roses {rubric}"},
        ]
    ]


@pytest.mark.parametrize(("says", "reward"), [("[[4]]", 1.0), ("[[3]]", 0.0), ("[[5]]", 1.0)])
def test_a_threshold_makes_it_pass_or_fail(says: str, reward: float) -> None:
    verdict, _ = rated({**RATING, "threshold": 0.75}, {"rubric": ""}, "x", says)

    assert verdict.reward == reward


@pytest.mark.parametrize(
    ("says", "reward", "disagreement"),
    [
        (("[[A]]", "[[B]]"), 1.0, 0.0),  # preferred wherever it stands
        (("[[B]]", "[[A]]"), 0.0, 0.0),
        (("[[A]]", "[[A]]"), 0.5, 1.0),  # only the order decided
        (("[[A]]", "[[C]]"), 0.75, 0.5),
        (("[[C]]", "[[C]]"), 0.5, 0.0),
    ],
)
def test_a_comparison_is_asked_in_both_orders_and_averaged(
    says: tuple[str, str], reward: float, disagreement: float
) -> None:
    verdict, judge = rated(COMPARISON, {"gold": "theirs"}, "mine", *says)

    assert verdict.reward == reward
    assert verdict.metrics["judge_disagreement"] == disagreement
    assert [messages[0]["content"] for messages in judge.asked] == [
        "1: mine 2: theirs",
        "1: theirs 2: mine",
    ]


def test_without_swap_one_order_is_asked() -> None:
    verdict, judge = rated({**COMPARISON, "swap": False}, {"gold": "theirs"}, "mine", "[[A]]")

    assert (verdict.reward, len(judge.asked)) == (1.0, 1)
    assert "judge_disagreement" not in verdict.metrics


def test_a_reply_that_says_nothing_twice_is_no_reward_of_zero() -> None:
    with pytest.raises(RolloutFailure) as caught:
        rated(RATING, {"rubric": ""}, "x", "I like it", "5 of 5")

    assert caught.value.kind is FailureKind.VERIFIER_ERROR
    assert "replies that cannot be read" in caught.value.message


def test_a_row_without_a_field_of_the_template_is_refused_before_its_rollout() -> None:
    environment = JudgeEnvironment(judge="grader", **RATING)
    assert refusal(environment, {}) == "has no field 'rubric', which the judge is shown"
    comparison = JudgeEnvironment(judge="grader", **COMPARISON)
    assert "'gold'" in refusal(comparison, {})
    nested = JudgeEnvironment(judge="grader", template="{response} {a.b}")
    assert "'a.b'" in refusal(nested, {"a": {}})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"template": "no reply shown"}, "shows no {response}"),
        ({"template": "{first} {response}"}, "needs {first} and {second}"),
        ({"template": "{first} {second}"}, "and reference"),
        ({"template": "{response}", "reference": "gold"}, "a rating has none"),
        ({"template": "{response}", "score": {"form": "regex"}}, "score: .*needs a pattern"),
        ({"template": "{response}", "judge": ""}, "judge names one"),
    ],
)
def test_params_that_do_not_fit_each_other_are_refused(
    params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        JudgeEnvironment(**{"judge": "grader", **params})


def test_the_examples_fit_the_config_and_env_check_is_green(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "environments" / "judge"
    config = load_config(folder / "config.yaml")
    environment = JudgeEnvironment(**config.environments["judge"].params)
    require_judges("judge", environment, config.judges)
    for row in example_rows("judge"):
        environment.check_task(row)

    report = check_environment(folder)

    assert report.ok, report.findings
    assert "grader, scripted" in [finding.detail for finding in report.findings]


def test_env_check_says_what_to_do_about_a_judge_that_only_a_model_could_be(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "example.jsonl").write_text(
        json.dumps({"responses_create_params": {"input": "?"}, "expected_answer": "4"}) + "\n"
    )
    (tmp_path / "config.yaml").write_text(
        "judges: {grader: {engine: openai}}\nenvironments: {math: {params: {judge: grader}}}\n"
    )

    report = check_environment(tmp_path)

    (problem,) = [finding for finding in report.findings if not finding.ok]
    assert problem.check == "judges"
    assert "put a check.yaml beside the config" in problem.detail


# As a part of a composed verdict.


def composed(**verifiers: dict[str, Any]) -> Environment:
    config = load_config(
        {
            "judges": {"grader": {"engine": "scripted"}},
            "environments": {"math": {"verifiers": verifiers}},
        }
    )
    environment = load_environment("math", config.environments["math"], ".")
    require_judges("math", environment, config.judges)
    return environment


TONE = {
    "use": "gym_ray.verifiers.judge:rated",
    "params": {"judge": "grader", "template": "{response}", "score": {"high": 4}},
    "weight": 0.5,
}


def test_a_judge_is_a_part_of_a_composed_verdict_by_name() -> None:
    environment = composed(tone=TONE, depth=TONE)
    environment.judges = {"grader": CannedJudge("[[3]]", "[[1]]")}

    verdict = verdict_of(environment, task_of({"expected_answer": "4"}), "hello")

    assert sorted(verdict.components.values()) == [0.125, 0.375]  # 0.5 x 1/4 and 0.5 x 3/4
    assert verdict.reward == 0.5
    assert {"tone/judge_score", "depth/judge_score"} <= verdict.metrics.keys()


def test_a_judge_that_is_not_there_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"asks judge 'gradr', .*did you mean 'grader'"):
        composed(tone={**TONE, "params": {**TONE["params"], "judge": "gradr"}})


def test_a_plain_function_cannot_ask_a_judge(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(
        "from gym_ray.judging import Judge\ndef plain(outcome, *, judge: Judge): return 1\n"
    )
    use = {"use": f"{tmp_path}/parts:plain", "params": {"judge": "grader"}}
    with pytest.raises(ConfigError, match="only an async function can ask a judge"):
        composed(tone=use)


# In mathematics, on disagreement.


class HereMath(MathEnvironment):
    """`math` with its rules on the event loop, as no process is needed to test what follows."""

    async def verify(self, outcome: Any) -> Verdict:  # type: ignore[override]
        return super().verify(outcome)


def mathematics(reply: str, *says: str) -> tuple[Verdict, CannedJudge]:
    environment = HereMath(judge="grader")
    judge = CannedJudge(*says)
    environment.judges = {"grader": judge}
    task = task_of({"expected_answer": "x > 2", "responses_create_params": {"input": "Solve."}})
    return verdict_of(environment, task, reply), judge


def test_an_answer_the_rules_accept_costs_no_call() -> None:
    verdict, judge = mathematics("\\boxed{x > 2}")

    assert (verdict.reward, verdict.metrics["rule_reward"], judge.asked) == (1.0, 1.0, [])
    assert "judge_calls" not in verdict.metrics


def test_a_reply_without_an_answer_costs_no_call() -> None:
    verdict, judge = mathematics("I do not know.")

    assert (verdict.reward, judge.asked) == (0.0, [])


def test_an_answer_the_rules_do_not_accept_is_accepted_by_a_judge_that_agrees_twice() -> None:
    verdict, judge = mathematics("\\boxed{7}", "[[A=B]]", "yes, [[A=B]]")

    assert (verdict.reward, verdict.metrics["rule_reward"]) == (1.0, 0.0)
    assert len(judge.asked) == 2
    texts = [messages[0]["content"] for messages in judge.asked]
    assert texts[0].index("x > 2") < texts[0].index("\n7\n")
    assert texts[1].index("\n7\n") < texts[1].index("x > 2")
    assert "Solve." in texts[0]


def test_an_answer_a_judge_denies_in_either_order_has_no_reward() -> None:
    denied, judge = mathematics("\\boxed{7}", "[[A!=B]]")
    assert (denied.reward, len(judge.asked)) == (0.0, 1)
    assert mathematics("\\boxed{7}", "[[A=B]]", "[[A!=B]]")[0].reward == 0.0


def test_without_a_judge_nothing_changes() -> None:
    environment = HereMath()
    verdict = verdict_of(environment, task_of({"expected_answer": "4"}), "\\boxed{5}")

    assert verdict.metrics == {"answer_found": 1.0, "answer_boxed": 1.0}


@pytest.mark.parametrize(
    ("score", "reply"),
    [
        ({"form": "rating", "low": 1, "high": 5}, "Perfect is [[5]]. So this is [[1]]"),
        ({"form": "labels", "labels": {"[[Y]]": 1, "[[N]]": 0}}, "Not [[Y]], I say [[N]]"),
        ({"form": "json", "high": 1}, 'Not {"score": 1}, I say {"score": 0}'),
        ({"form": "regex", "pattern": r"Score: (\d+)"}, "Score: 10? No. Score: 0"),
        ({"form": "rating"}, "<think>Is it [[10]]? Hardly.</think>[[0]]"),
    ],
)
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 1.0])
def test_a_reply_that_was_cut_short_is_not_read(
    score: dict[str, Any], reply: str, share: float
) -> None:
    whole = len(load_renderer(None).encode(reply, special=False))
    most = max(1, int(whole * share)) if share < 1 else whole + 10
    environment = JudgeEnvironment(judge="grader", template="{response}?", score=score)
    environment.judges = {
        "grader": scripted_judge(reply, sampling=Sampling(max_output_tokens=most))
    }

    def verdict() -> Verdict:
        return verdict_of(environment, task_of({}), "mine")

    if share == 1.0:
        assert (verdict().reward, verdict().metrics["judge_unparsed"]) == (0.0, 0.0)
        return
    with pytest.raises(RolloutFailure, match="cut short by its max_output_tokens") as caught:
        verdict()
    assert caught.value.kind is FailureKind.VERIFIER_ERROR
