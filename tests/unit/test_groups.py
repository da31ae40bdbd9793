"""Rewards of groups: what their verifiers say, and what becomes of the rows."""

import asyncio
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gym_ray import read_rollouts
from gym_ray.collection.compaction import compact
from gym_ray.collection.group_compaction import has_groups, judges_of_groups
from gym_ray.collection.groups import GroupRewards, count_failures
from gym_ray.config.load import RunConfig, load_config
from gym_ray.environment import Outcome
from gym_ray.errors import ConfigError, FailureKind, Interrupted
from gym_ray.rollout import Rollout
from gym_ray.store.dataset_files import dataset_files
from gym_ray.store.index import Index
from gym_ray.store.segments import SegmentStore
from gym_ray.task import Task
from gym_ray.verifiers.groups import diversity, ranking
from tests.judges import judge_that_says

Make = Callable[..., Rollout]

VERIFIERS = """
import asyncio, math, os, time

def length_rank(outcomes, rewards, *, top=1.0):
    order = sorted(outcomes, key=lambda outcome: len(outcome.text))
    return [top * order.index(outcome) for outcome in outcomes]

async def mean_reward(outcomes, rewards):
    return [sum(rewards) / len(rewards)] * len(rewards)

def one_short(outcomes, rewards):
    return [1.0] * (len(outcomes) - 1)

def nothing_finite(outcomes, rewards):
    return [math.nan] * len(outcomes)

def hangs(outcomes, rewards):
    time.sleep(3600)

def dies(outcomes, rewards):
    os._exit(1)

async def hangs_on_loop(outcomes, rewards):
    await asyncio.Event().wait()
"""


def outcome(text: str, **row: Any) -> Outcome:
    return Outcome(Task("t", {"responses_create_params": {"input": "Why?"}, **row}), text, [])


# Diversity.


def test_diversity_of_answers_is_the_share_of_others_that_answer_otherwise() -> None:
    group = [outcome(text) for text in (r"\boxed{4}", r"so \boxed{4.0}", r"\boxed{5}", "six")]

    scores = diversity(group, [1.0, 1.0, 0.5, 0.0])

    assert scores == [2 / 3, 2 / 3, 1.0, 0.0]  # the last one has no reward
    assert diversity(group, [0.0] * 4, rewarded_only=False)[3] == 1.0


def test_diversity_of_texts_is_the_mean_distance_of_their_n_grams() -> None:
    group = [outcome(text) for text in ("a b c", "A b c!", "b c d")]

    # Bigrams: {ab, bc}, the same, {bc, cd}; the last shares 1 of 3 with each of the others.
    scores = diversity(group, [1.0] * 3, of="texts", n=2)

    assert scores == pytest.approx([(0 + 2 / 3) / 2, (0 + 2 / 3) / 2, 2 / 3])


def test_a_reply_that_is_alone_is_not_diverse() -> None:
    assert diversity([outcome("4")], [1.0]) == [0.0]
    assert diversity([outcome("")], [1.0], of="texts") == [0.0]
    with pytest.raises(ValueError, match="answers or texts"):
        diversity([outcome("")], [1.0], of="words")  # type: ignore[arg-type]


# Ranking by a judge.


def prefers_the_longer(question: str) -> str:
    first, second = (part.split("\n")[1] for part in question.split("Reply ")[1:3])
    label = "[[C]]" if len(first) == len(second) else "AB"[len(first) < len(second)]
    return label if label == "[[C]]" else f"[[{label}]]"


def ranks(*texts: str, says: Callable[[str], str] = prefers_the_longer, **params: Any) -> Any:
    group = [outcome(text) for text in texts]
    return asyncio.run(ranking(group, [0.0] * len(texts), judge=judge_that_says(says), **params))


def test_ranking_is_the_share_of_comparisons_won() -> None:
    # All pairs of three: the longest wins both of its own, the shortest none.
    assert ranks("ccc", "a", "bb") == [1.0, 0.0, 0.5]
    assert ranks("aa", "bb") == [0.5, 0.5]
    assert ranks("alone") == [0.5]


def test_a_judge_that_only_looks_at_the_order_ranks_all_alike() -> None:
    assert ranks("ccc", "a", "bb", says=lambda _: "[[A]]") == [0.5, 0.5, 0.5]


def test_rounds_bound_how_many_comparisons_there_are() -> None:
    questions: list[str] = []

    def says(question: str) -> str:
        questions.append(question)
        return "[[C]]"

    assert ranks(*"abcdefgh", says=says, rounds=1) == [0.5] * 8
    assert len(questions) == 16  # 8 pairs in a circle, each in both orders


# What becomes of the rows.


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("os.fsync", lambda _: None)
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "verifiers.py").write_text(VERIFIERS)
    return tmp_path


def config_of(run: Path, timeout_seconds: float = 30, **verifiers: dict[str, Any]) -> RunConfig:
    sections = {
        name: {**section, "use": section["use"].replace("HERE", f"{run}/verifiers")}
        for name, section in verifiers.items()
    }
    return load_config(
        {
            "judges": {"grader": {"engine": "scripted"}},
            "environments": {"sums": {"group_verifiers": sections}},
            "verification": {"timeout_seconds": timeout_seconds, "processes": 1},
        }
    )


def said(text: str) -> str:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return json.dumps([{"type": "message", "role": "assistant", "content": content}])


def store(run: Path, rollouts: Sequence[Rollout], block: str = "b") -> None:
    SegmentStore(run / "segments").write(block, rollouts)


def judged(run: Path, config: RunConfig, connect: Any = None) -> list[str]:
    """Compact the run with its group verifiers; the failures."""
    with GroupRewards(config, connect) as groups:
        compact(Index.read(dataset_files(run)), run / "rollouts", run / "segments", groups.add)
    return groups.failures


def scores_of(run: Path) -> list[tuple[float | None, dict[str, float], dict[str, float]]]:
    return [(r.reward, dict(r.reward_components), dict(r.metrics)) for r in read_rollouts(run)]


def test_scores_become_weighted_components_of_every_rewarded_rollout(
    run: Path, make_rollout: Make
) -> None:
    parts = {"right": 0.5, "short": 0.25}
    store(
        run,
        [
            make_rollout(0, 0, response=said("longest"), reward=1.0, metrics={"own": 3.0}),
            make_rollout(0, 1, response=said("mid"), reward=0.75, reward_components=parts),
            make_rollout(0, 2, status="failed", error_kind=FailureKind.CANCELLED, error="gone"),
            make_rollout(1, 0, response=said("alone"), reward=1.0),
            make_rollout(2, 0, "elsewhere", reward=1.0),
        ],
    )
    config = config_of(
        run,
        rank={"use": "HERE:length_rank", "params": {"top": 2.0}, "weight": 0.25},
        mean={"use": "HERE:mean_reward", "weight": -1.0},
    )

    assert judged(run, config) == []

    assert scores_of(run) == [
        # Rank 1 of 2, times top 2, times weight 0.25; mean (1 + 0.75) / 2, times -1.
        (
            0.625,
            {"verifier": 1.0, "rank": 0.5, "mean": -0.875},
            {"own": 3.0, "group/rank": 2.0, "group/mean": 0.875},
        ),
        (
            -0.125,
            {**parts, "rank": 0.0, "mean": -0.875},
            {"group/rank": 0.0, "group/mean": 0.875},
        ),
        (None, {}, {}),
        (
            0.0,
            {"verifier": 1.0, "rank": 0.0, "mean": -1.0},
            {"group/rank": 0.0, "group/mean": 1.0},
        ),
        (1.0, {}, {}),
    ]


def test_judging_again_changes_nothing_and_a_group_that_grew_is_judged_anew(
    run: Path, make_rollout: Make
) -> None:
    config = config_of(run, mean={"use": "HERE:mean_reward"})
    store(run, [make_rollout(0, 0, reward=1.0), make_rollout(1, 0, reward=1.0)])
    judged(run, config)
    once = scores_of(run)
    store(run, [make_rollout(2, 0, reward=0.0)], "later")
    judged(run, config)
    assert scores_of(run)[:2] == once

    store(run, [make_rollout(0, 1, reward=0.0)], "latest")
    judged(run, config)

    assert [reward for reward, _, _ in scores_of(run)] == [1.5, 0.5, 2.0, 0.0]
    assert scores_of(run)[0][1] == {"verifier": 1.0, "mean": 0.5}


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("one_short", "1 scores for 2 rollouts"),
        ("nothing_finite", "not finite"),
        ("hangs", "verifier_timeout"),
        ("dies", "verifier_error"),
        ("hangs_on_loop", "verifier_timeout: not finished after 0.5 s"),
    ],
)
def test_a_group_that_cannot_be_judged_keeps_its_rewards_and_says_so(
    run: Path, make_rollout: Make, function: str, reason: str
) -> None:
    store(run, [make_rollout(0, repeat, reward=0.5) for repeat in range(2)])
    config = config_of(run, 0.5, bad={"use": f"HERE:{function}"}, mean={"use": "HERE:mean_reward"})

    (failure,) = judged(run, config)

    assert "tasks.jsonl:1, verifier sums/bad" in failure
    assert reason in failure
    for reward, components, metrics in scores_of(run):
        assert (reward, components) == (1.0, {"verifier": 0.5, "mean": 0.5})
        assert metrics == {"group_failed/bad": 1.0, "group/mean": 0.5}
    assert count_failures(dataset_files(run)) == {"bad": 1}


def test_judging_is_given_up_when_the_command_is_to_stop(run: Path, make_rollout: Make) -> None:
    store(run, [make_rollout(0, repeat, reward=0.5) for repeat in range(2)])
    config = config_of(run, 3600, bad={"use": "HERE:hangs_on_loop"})
    index = Index.read(dataset_files(run))
    asked = itertools.count()

    def check() -> None:
        if next(asked) == 1:
            raise Interrupted("stopped (signal)")

    with pytest.raises(Interrupted), GroupRewards(config, None, check) as groups:
        compact(index, run / "rollouts", run / "segments", groups.add)

    assert [reward for reward, _, _ in scores_of(run)] == [0.5, 0.5]
    assert not list((run / "rollouts").glob("*.parquet"))


def test_a_component_of_the_environment_is_never_overwritten(run: Path, make_rollout: Make) -> None:
    store(run, [make_rollout(0, 0, reward=0.5, reward_components={"mean": 0.5})])

    (failure,) = judged(run, config_of(run, mean={"use": "HERE:mean_reward"}))

    assert "has a component 'mean' of its own" in failure
    assert scores_of(run) == [(0.5, {"mean": 0.5}, {"group_failed/mean": 1.0})]


def test_what_a_judge_of_groups_costs_stands_once_in_each_group(
    run: Path, make_rollout: Make
) -> None:
    texts = ("a", "bb", "ccc")
    store(run, [make_rollout(0, n, response=said(text)) for n, text in enumerate(texts)])
    use = "gym_ray.verifiers.groups:ranking"
    config = config_of(run, rank={"use": use, "params": {"judge": "grader"}})

    async def connect() -> dict[str, Any]:
        return {"grader": judge_that_says(prefers_the_longer)}

    assert judges_of_groups(config) == ["grader"]
    assert judged(run, config, connect) == []

    first, *others = scores_of(run)
    assert [reward for reward, _, _ in (first, *others)] == [1.0, 1.5, 2.0]
    assert first[2]["group/rank/judge_calls"] == 6
    assert first[2]["group/rank/judge_prompt_tokens"] == 60
    assert all(metrics.keys() == {"group/rank"} for _, _, metrics in others)


def test_group_verifiers_that_cannot_work_are_refused_at_the_start(run: Path) -> None:
    assert not has_groups(load_config({"environments": {"sums": {}}}))
    wrong = [
        ({"use": "HERE:nowhere"}, "cannot be imported"),
        ({"use": "HERE:length_rank", "params": {"to": 1}}, "refuses them"),
        (
            {"use": "gym_ray.verifiers.groups:ranking", "params": {"judge": "gradr"}},
            "asks judge 'gradr'",
        ),
    ]
    for section, message in wrong:
        with pytest.raises(ConfigError, match=message):
            judges_of_groups(config_of(run, one=section))
