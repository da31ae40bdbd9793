"""`gym-ray config`: what a config says with everything put together, and whether it would run."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, reject
from hypothesis import strategies as st

from gym_ray.collection.plan import Plan, plan_of
from gym_ray.config.load import load_config
from gym_ray.config.provenance import settings_of, to_yaml
from gym_ray.errors import ConfigError

Write = Callable[..., Path]
RunCli = Callable[..., tuple[int, str, str]]

REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted(
    path
    for folder in ("deployments", "environments")
    for path in (REPOSITORY / folder).rglob("*.yaml")
    if re.search(r"^environments:", path.read_text(), re.MULTILINE)
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "plain.py").write_text(
        "from gym_ray import Environment\nclass Plain(Environment): pass\n"
    )
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""\
policy: {{engine: scripted}}
environments:
  plain:
    entrypoint: "./plain:Plain"
collect:
  input: {tmp_path}/tasks.jsonl
  output: {tmp_path}/runs/demo
"""
    )
    return path


def shown(path: Path, *overrides: str) -> dict[str, tuple[Any, str]]:
    """Value and origin by dotted key."""
    return {
        setting.key: (setting.value, setting.origin.removeprefix(f"{path}:"))
        for setting in settings_of(path, overrides)
    }


def test_every_value_is_shown_with_the_place_that_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        """\
policy:
  engine: scripted
  engine_args: {latency_ms: 1, replies: [a]}
environments:
  first: &first
    params:
      level: 1
      depth: 2
    resources: {num_cpus: 2}
  second:
    <<: *first
    agent_refs: [other]
    params: ${environments.first.params}
collect:
  objective: rl
  output: runs/${policy.engine}
"""
    )

    found = shown(
        path, "environments.first.params.depth=3", "policy.engine_args.replies=[b]", "serve.port=1"
    )

    assert found["policy.engine"] == ("scripted", "2")
    assert found["policy.engine_args.latency_ms"] == (1, "3")
    assert found["policy.engine_args.replies"] == (["b"], "command line")
    assert found["environments.first.params.level"] == (1, "7")
    assert found["environments.first.params.depth"] == (3, "command line")
    assert found["environments.first.resources.num_cpus"] == (2.0, "9"), "a key in braces"
    assert found["environments.second.resources.num_cpus"] == (2.0, "9"), "a merged key"
    assert found["environments.second.agent_refs"] == (["other"], "12")
    assert found["environments.second.params"] == ({"level": 1, "depth": 3}, "13")
    assert found["collect.output"] == ("runs/scripted", "16")
    assert found["collect.num_repeats"] == (8, "objective rl")
    assert found["sampling.temperature"] == (1.0, "objective rl")
    assert found["collect.max_in_flight"] == (512, "default")
    assert found["serve.port"] == (1, "command line")
    assert len(found) > 80
    comment = next(line for line in to_yaml(settings_of(path)).splitlines() if "output:" in line)
    assert comment.split() == [
        "output:", "runs/scripted", "#", f"{path}:16,", "runs/${policy.engine}",
    ]  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_is_shown_of_a_config_is_the_config(path: Path) -> None:
    settings = settings_of(path)

    again = load_config(yaml.safe_load(to_yaml(settings)))

    assert again.model_dump() == load_config(path).model_dump()
    assert {setting.origin for setting in settings} > {"default"}


#: Text that a reader of YAML might take for something else.
TEXTS = st.text(
    "aeEnyx09.:#-+_}[],\"'\\\n\t $*&!|>%@`~=</é\U0001f600", max_size=8
) | st.sampled_from(
    ["1e5", ".5e3", "0x1f", "1_000", "~", "null", "Yes", "2001-01-01", "1:30", "<<", "{a}", ".inf"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(params=st.dictionaries(TEXTS, VALUES, max_size=4))
def test_every_value_that_can_be_written_is_shown_so_that_it_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, params: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    tree = {"environments": {"math": {"params": params}}}
    path.write_text(json.dumps(tree))
    try:
        written = load_config(path)
    except ConfigError:  # What cannot be written is no matter of what is shown.
        reject()
    text = to_yaml(settings_of(path))

    if "***" not in text:
        again = path.with_name("again.yaml")
        again.write_text(text)
        assert load_config(again).environments == written.environments


@pytest.mark.parametrize(
    ("written", "is_shown"),
    [
        ("${oc.env:A_KEY}", "${oc.env:A_KEY}"),
        ("Bearer ${oc.env:A_KEY}", "Bearer ${oc.env:A_KEY}"),
        ("${environments.math.params.first}", "${environments.math.params.first}"),
        ("${oc.decode:${oc.env:A_KEY}}", "${oc.decode:${oc.env:A_KEY}}"),
        ("${environments.math.params.password}", "${environments.math.params.password}"),
        ("sk-0123456789abcdef0123", "***"),
        ("http://me:opaque-word@host/v1", "***"),
    ],
)
def test_no_secret_is_shown_however_it_comes_to_its_place(
    gym_ray: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, is_shown: str
) -> None:
    monkeypatch.setenv("A_KEY", "opaque-word")
    path = tmp_path / "config.yaml"
    params = {
        "first": "${oc.env:A_KEY}",
        "password": "opaque-word",
        "nested": {"second": written, "third": [{"fourth": written}]},
    }
    path.write_text(json.dumps({"environments": {"math": {"params": params}}}))

    code, out, err = gym_ray("config", "show", path)
    told = gym_ray("config", "show", path, "--json")[1]

    assert (code, err) == (0, "")
    assert "opaque-word" not in out + told
    values = {row["key"]: row["value"] for row in json.loads(told)}
    assert values["environments.math.params.password"] == "***"
    assert values["environments.math.params.nested.second"] == is_shown
    assert values["environments.math.params.nested.third"] == [{"fourth": is_shown}]


def test_a_config_that_is_none_is_refused_by_show_as_by_every_command(
    gym_ray: RunCli, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("environments: {math: {}}\ncollect: {num_repeat: 3}\n")

    code, out, err = gym_ray("config", "show", path)

    assert (code, out) == (2, "")
    assert "did you mean 'num_repeats'?" in err


def found_by(plan: Plan) -> dict[str, bool]:
    return {finding.check: finding.ok for finding in plan.findings}


def test_a_check_says_what_would_run_and_leaves_nothing(
    gym_ray: RunCli, config: Path, write_lines: Write, make_row: Callable[..., dict[str, Any]]
) -> None:
    write_lines([make_row("a"), make_row("b"), "{broken"])

    plan = plan_of(config, ["collect.num_repeats=4", "policy.autoscaling.max_replicas=2"])

    assert plan.ok
    assert set(found_by(plan)) == {"config", "cluster", "environments", "start", "output", "input"}
    assert plan.work is not None
    assert plan.work.rollouts == {"plain": 8, "": 4}
    assert (plan.work.expected, plan.work.done) == (12, 0)
    assert len(plan.work.first_invalid) == 1
    assert "tasks.jsonl:3" in plan.work.first_invalid[0]
    policy, environment = plan.parts
    assert (policy.name, policy.min_replicas, policy.max_replicas) == ("policy", 1, 2)
    assert (environment.name, environment.num_gpus) == ("environments.plain", 0)
    assert not (config.parent / "runs").exists()

    code, out, err = gym_ray("config", "check", config)
    assert (code, err) == (0, "")
    assert "would run 3 rollouts (in all 2 of plain)" in out
    assert not (config.parent / "runs").exists()


def test_a_check_of_a_run_that_is_there_says_what_is_left(
    gym_ray: RunCli, config: Path, write_lines: Write
) -> None:
    write_lines(["{one", "{two"])
    assert gym_ray("collect", config, "--quiet", "collect.max_failed_share=1")[0] == 0

    plan = plan_of(config, ["collect.num_repeats=3", "collect.extend=true"])
    assert plan.ok
    assert plan.work is not None
    assert (plan.work.expected, plan.work.done) == (6, 2)

    refused = plan_of(config, ["collect.num_repeats=3", "collect.max_failed_share=1"])
    assert [name for name, ok in found_by(refused).items() if not ok] == ["output"]
    finished = plan_of(config, ["collect.max_failed_share=1"]).work
    assert finished is not None
    assert (finished.expected, finished.done) == (2, 2)
    # What is finished needs no engine.
    assert found_by(plan_of(config, ["policy.resources.num_gpus=999"]))["start"]


def test_one_check_that_fails_keeps_none_of_the_others_back(
    gym_ray: RunCli, config: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    wrong = [
        "environments.plain.params.nothing=1",
        f"collect.output={tmp_path}/file",
        "collect.input=nope.jsonl",
        "environments.other={agent: external}",
    ]

    code, out, err = gym_ray("config", "check", config, *wrong)

    assert code == 2
    failed = re.findall(r"^FAIL  (\w+): (.*)$", out, re.MULTILINE)
    assert [check for check, _ in failed] == ["environments", "output", "input", "start"]
    assert "params" in failed[0][1]
    assert "external" in failed[3][1]
    assert err.endswith("cannot be collected: environments, output, input, start\n")

    code, out, err = gym_ray("config", "check", config, "collect.colect=1")
    assert code == 2
    assert "FAIL  config: " in out
    assert "cannot be collected: config" in err
