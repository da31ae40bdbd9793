"""Docs that are made from code are up to date, and name only what exists."""

import asyncio
import re
import runpy
from pathlib import Path
from typing import Any

from gym_ray.tools import method_tools

ROOT = Path(__file__).parents[2]


def test_configuration_page_is_what_the_code_says() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "write_docs.py"))["configuration"]()
    assert (ROOT / "docs" / "configuration.md").read_text() == page, "run scripts/write_docs.py"


def test_testing_page_is_what_the_markers_say() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "write_docs.py"))["testing"]()
    assert (ROOT / "docs" / "testing.md").read_text() == page, "run scripts/write_docs.py"


def test_examples_of_the_agents_page_are_environments() -> None:
    page = (ROOT / "docs" / "agents.md").read_text()
    shop, guess = re.findall(r"```python\n(.*?)```", page, re.S)
    names: dict[str, Any] = {"__name__": "shop"}
    exec(shop, names)
    exec(guess, names)

    put = method_tools(names["Shop"]())["put"].definition
    assert put["parameters"]["properties"]["item"]["description"] == "its name."
    step = asyncio.run(names["Guess"]().step(4, "4"))
    assert (step.reward, step.done) == (1.0, True)


def test_examples_of_the_judges_page_work() -> None:
    import yaml

    from gym_ray import Outcome
    from gym_ray.config.load import JudgeConfig, load_config
    from gym_ray.registry import load_environment, require_judges
    from gym_ray.task import Task
    from tests.judges import CannedJudge, verdict_of

    page = (ROOT / "docs" / "judges.md").read_text()
    polite, shortest = (
        names
        for text in re.findall(r"```python\n(.*?)```", page, re.S)
        if exec(text, names := {"__name__": "page"}) is None
    )
    environment = polite["Polite"]()
    environment.judges = {"grader": CannedJudge("Well.", "Yes.")}
    assert verdict_of(environment, Task("t", {}), "Thank you.").reward == 1.0
    outcomes = [Outcome(Task("t", {}), text, []) for text in ("aaa", "bb", "c")]
    assert shortest["shortest"](outcomes, [1.0, 1.0, 0.0]) == [0.0, 1.0, 0.0]

    policy, judge, part, groups = re.findall(r"```yaml\n(.*?)```", page, re.S)
    grader = yaml.safe_load(policy)["judges"]["grader"]
    assert JudgeConfig.model_validate(grader).requests_per_minute == 600
    judge = judge.replace("  judge:\n", "  judge:\n    entrypoint: "
                          "gym_ray.environments.judge:JudgeEnvironment\n", 1)  # fmt: skip
    for text in (judge, part):
        config = load_config(yaml.safe_load(text) | {"judges": {"grader": grader}})
        for name, section in config.environments.items():
            built = load_environment(name, section, ".")
            require_judges(name, built, config.judges)
    found = load_config(yaml.safe_load(groups)).environments["math"].group_verifiers
    assert list(found) == ["shortest", "diversity", "rank"]


def test_readme_names_only_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    names = (
        "docs/agents.md",
        "docs/dataset.md",
        "docs/environments.md",
        "docs/judges.md",
        "docs/configuration.md",
        "docs/verifiers.md",
        "docs/policies.md",
        "docs/prepare.md",
        "scripts/quickstart.sh",
        "scripts/test.sh",
        "deployments/laptop-cpu.yaml",
        "deployments/external-policy.yaml",
        "deployments/single-gpu.yaml",
    )
    for name in names:
        assert name in text
        assert (ROOT / name).exists()


def test_config_of_every_environment_is_valid() -> None:
    from gym_ray.config.load import load_config

    configs = sorted((ROOT / "environments").glob("*/config.yaml"))
    assert configs
    for path in configs:
        load_config(path)


def test_policies_page_names_every_argument_of_a_remote_policy() -> None:
    from gym_ray.policies.openai import OpenAIArgs

    page = (ROOT / "docs" / "policies.md").read_text()
    assert [name for name in OpenAIArgs.model_fields if f"`{name}`" not in page] == []


def test_configs_of_the_autoscaling_page_are_configs() -> None:
    import yaml

    from gym_ray.config.load import load_config

    page = (ROOT / "docs" / "autoscaling.md").read_text()
    scaled, shared = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.S))

    assert load_config(scaled).policy.autoscaling.target_kv_cache_usage == 0.8
    assert load_config(shared).quotas == {"code": 64}
