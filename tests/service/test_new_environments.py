"""What `gym-ray env new` writes collects as it is, without a model and without Ray."""

from pathlib import Path

import pytest
import yaml

from gym_ray import collect, read_rollouts
from gym_ray.authoring import create_environment


@pytest.mark.parametrize(
    ("template", "agent", "rewards"),
    [
        ("single", "single_turn", {0.0: 14, 1.0: 2}),
        ("tools", "tool_calling", {0.0: 14, 1.0: 2}),
        ("game", "gymnasium", {0.0: 4, 0.125: 2, 0.375: 2, 0.5: 2, 0.75: 2, 0.875: 2, 1.0: 2}),
    ],
)
def test_a_new_environment_collects_as_it_is(
    template: str,
    agent: str,
    rewards: dict[float, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    create_environment("fresh", Path("."), template)

    summary = collect("fresh/scripted.yaml")

    rollouts = read_rollouts(summary.output)
    assert {rollout.agent for rollout in rollouts} == {agent}
    saved = yaml.safe_load(Path(summary.output, "run.yaml").read_text())
    assert saved["environments"]["fresh"]["agent"] == agent
    found = [rollout.reward for rollout in read_rollouts(summary.output)]
    assert {reward: found.count(reward) for reward in set(found)} == rewards
    assert "never offers" not in capsys.readouterr().err


def test_a_baseline_without_the_tools_is_collected_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    create_environment("shop", Path("."), "tools")

    summary = collect("shop/scripted.yaml", ["environments.shop.agent=single_turn"])

    told = capsys.readouterr().err
    assert "environments.shop has tools look, put, take: agent single_turn never offers" in told
    assert told.index("never offers") < told.index("16 rollouts to collect")
    assert [rollout.reward for rollout in read_rollouts(summary.output)] == [0.0] * 16
