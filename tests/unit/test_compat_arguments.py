"""NeMo Gym's arguments and config files: what they mean here, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gym_ray.compat.arguments import PrepareArguments, RolloutArguments, parsed
from gym_ray.compat.configs import read_configs
from gym_ray.compat.servers import agent_of
from gym_ray.errors import ConfigError

NEEDED = ["+config_paths=[a.yaml,b.yaml]", "+input_jsonl_fpath=in", "+output_jsonl_fpath=out"]

AGENT = {
    "entrypoint": "app.py",
    "resources_server": {"type": "resources_servers", "name": "quiz"},
    "model_server": {"type": "responses_api_models", "name": "policy_model"},
}
ROWS = {"name": "shown", "type": "example", "jsonl_fpath": "rows.jsonl"}


def config(path: Path, **tree: Any) -> str:
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return str(path)


def test_arguments_are_read_as_hydra_has_them() -> None:
    texts = [*NEEDED, "+agent_name=x", "++limit=3", "num_repeats=null"]
    texts += ["+num_samples_in_parallel=10", "+responses_create_params.temperature=0.7"]
    texts += ["+responses_create_params.max_output_tokens=64", "collect.max_attempts=5"]

    found, overrides = parsed(RolloutArguments, texts)

    assert found.config_paths == ["a.yaml", "b.yaml"]
    assert (found.agent_name, found.limit, found.num_repeats) == ("x", 3, None)
    assert found.num_samples_in_parallel == 10
    assert found.responses_create_params.given() == {"temperature": 0.7, "max_output_tokens": 64}
    assert overrides == ["collect.max_attempts=5"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("+num_repeat=2", r"\+num_repeat: unknown argument; did you mean \+num_repeats\?"),
        ("+colect.limit=2", "did you mean collect"),
        ("+zzz=1", r"unknown argument; valid: \+config_paths, "),
        ("+agent_map.a=b", r"write instead: agent_refs of the environments"),
        ("+policy_api_key=secret", r"engine_args\.api_key_env=NAME"),
        ("+limit", r"\+limit: write \+KEY=VALUE"),
        ("~limit=1", "nothing can be taken out"),
        ("+limit=0", r"\+limit: Input should be greater than or equal to 1 \(got 0\)"),
        ("+num_repeats={a: 2}", "one number for all"),
        ("+responses_create_params.temprature=1", "valid: temperature"),
        ("+responses_create_params.user=me", "has no effect here; valid: "),
        ("+route_failures_to_sidecar=false", r"Input should be True \(got False\)"),
        ("+limit=[", "not KEY=YAML"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parsed(RolloutArguments, [*NEEDED, text])


def test_what_is_needed_is_named() -> None:
    with pytest.raises(ConfigError, match=r"\+mode=… \(or --mode\) is missing"):
        parsed(PrepareArguments, ["+config_paths=[a]", "+output_dirpath=o"])
    with pytest.raises(ConfigError, match="nothing is downloaded; get the files first"):
        parsed(
            PrepareArguments,
            ["+config_paths=[a]", "+output_dirpath=o", "+mode=example_validation",
             "+should_download=true"],
        )  # fmt: skip


def test_configs_of_both_kinds_become_one(tmp_path: Path) -> None:
    ours = config(
        tmp_path / "ours.yaml",
        policy={"engine": "scripted"},
        environments={"mine": {"entrypoint": "x.py:X", "agent_refs": ["quiz_agent"]}},
    )
    more = config(tmp_path / "more.yaml", policy={"model": "m"}, sampling={"top_p": 0.9})
    theirs = config(
        tmp_path / "theirs.yaml",
        quiz={"resources_servers": {"quiz": {"entrypoint": "app.py", "domain": "x"}}},
        quiz_agent={"responses_api_agents": {"simple_agent": {**AGENT, "datasets": [ROWS]}}},
        policy_model={"responses_api_models": {"vllm_model": {"base_url": "${policy_base_url}"}}},
    )

    configs = read_configs([theirs, ours, more])
    loaded = configs.load(["sampling.temperature=0.5"])

    assert (loaded.policy.engine, loaded.policy.model) == ("scripted", "m")
    assert (loaded.sampling.top_p, loaded.sampling.temperature) == (0.9, 0.5)
    assert loaded.base_directory == str(tmp_path)
    assert [server.name for server in configs.servers] == ["quiz", "quiz_agent", "policy_model"]
    assert configs.answering("quiz_agent") == configs.answering("mine") == "mine"


def test_environments_that_came_along_answer_to_nemo_gyms_agents(tmp_path: Path) -> None:
    configs = read_configs([config(tmp_path / "ours.yaml", policy={"engine": "scripted"})])

    assert configs.answering("math_with_judge_simple_agent") == "math"

    section = configs.load([]).environments["math"]
    assert (section.params, section.datasets) == ({"require_box": False}, [])
    with pytest.raises(ConfigError, match=r"answers to agent 'nobody'.*agent_refs: \[nobody\]"):
        configs.answering("nobody")


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"polcy": {}}, "'polcy' is no section .* did you mean 'policy'"),
        ({"xyz": {"host": "h"}}, "no server instance of a NeMo Gym config; sections: "),
        ({"a": {"responses_api_agents": {"x": 1}}}, r"a\.responses_api_agents\.x: settings"),
        ({"a": {"responses_api_agents": {}}}, "one implementation as a key"),
        (
            {"a": {"responses_api_agents": {"x": {"n": "${nowhere}"}}}},
            "nowhere.*write the value itself",
        ),
    ],
)
def test_files_of_neither_kind_are_refused(
    tmp_path: Path, tree: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_configs([config(tmp_path / "a.yaml", **tree)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "benchmark"}, r"datasets\.0\.type: Input should be 'train', 'validation' or"),
        ({"prompt_config": "p.yaml"}, "prompt_config: write the dataset in a gym-ray config"),
        ({"taskset": "t"}, "taskset: has no meaning here; valid keys: name, type"),
        ({"type": "train"}, "data for train needs a license"),
        ({"num_repeats": 0}, r"datasets\.0\.num_repeats: Input should be greater"),
    ],
)
def test_datasets_that_do_not_map_are_refused(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    agent = {"simple_agent": {**AGENT, "datasets": [{**ROWS, **change}]}}
    with pytest.raises(ConfigError, match=reason):
        read_configs([config(tmp_path / "a.yaml", quiz_agent={"responses_api_agents": agent})])


def test_datasets_of_a_resources_server_are_of_the_agent_that_acts_in_it(tmp_path: Path) -> None:
    quiz = {"resources_servers": {"quiz": {"entrypoint": "app.py", "datasets": [ROWS]}}}
    agent = {"responses_api_agents": {"simple_agent": AGENT}}
    one = read_configs([config(tmp_path / "one.yaml", quiz=quiz, first=agent)])
    two = read_configs([config(tmp_path / "two.yaml", quiz=quiz, first=agent, second=agent)])

    assert agent_of(one.servers[1], one.servers) == "first"
    quiz_of_two = next(server for server in two.servers if server.name == "quiz")
    with pytest.raises(ConfigError, match="2 agents act in it: first, second; declare them"):
        agent_of(quiz_of_two, two.servers)
