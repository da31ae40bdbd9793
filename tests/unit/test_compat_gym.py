"""Later NeMo Gym's `gym` command: its flags, names of components, and commands done elsewhere."""

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gym_ray.compat.arguments import RolloutArguments, StartArguments, parsed
from gym_ray.compat.elsewhere import ELSEWHERE
from gym_ray.compat.gym_flags import as_arguments, config_of
from gym_ray.compat.start import config_to_serve
from gym_ray.errors import ConfigError

RunCli = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]

#: Of NeMo Gym's reference of commands (August 2026): every command, newer and older.
COMMANDS = """
list benchmarks, list environments, list agents, list models, list resources-servers, search,
dataset upload, dataset download, dataset rm, dataset migrate, dataset render, dataset collate,
env init, env resolve, env validate, env packages, env test, env publish, env start, env prefetch,
env status, eval prepare, eval run, eval aggregate, eval profile, eval reverify, eval submit,
dev test, ng_list_benchmarks, ng_run, ng_status, ng_dump_config, ng_pip_list,
ng_init_resources_server, ng_test, ng_test_all, ng_prepare_benchmark, ng_e2e_collect_rollouts,
ng_collect_rollouts, ng_aggregate_rollouts, ng_reward_profile, ng_prepare_data,
ng_materialize_prompts, ng_upload_dataset_to_hf, ng_upload_dataset_to_gitlab,
ng_download_dataset_from_hf, ng_download_dataset_from_gitlab, ng_gitlab_to_hf_dataset,
ng_delete_dataset_from_gitlab, ng_dev_test
""".replace("\n", " ").split(",")
OURS = {
    "eval run", "dataset collate", "env start", "ng_collect_rollouts", "ng_prepare_data", "ng_run",
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        """
policy: {engine: scripted}
environments: {math: {agent_refs: [math_agent]}}
collect: {max_failed_share: 1}
math_agent:
  responses_api_agents:
    simple_agent:
      entrypoint: app.py
      datasets: [{name: shown, type: example, jsonl_fpath: rows.jsonl}]
"""
    )
    return path


@pytest.mark.parametrize("name", [name.strip() for name in COMMANDS])
def test_every_command_of_nemo_gym_is_there_or_says_what_to_write_instead(
    gym_ray: RunCli, name: str
) -> None:
    if name in OURS:
        assert gym_ray("compat", *name.split(), "--help")[0] == 0
        return
    code, _, err = gym_ray("compat", *name.split(), "NAME", "--json", "++key=value", "-x", "y")

    assert code == 2
    assert f"{name} is not done here under that name; write instead: " in err


def test_what_is_to_be_written_instead_is_a_command(gym_ray: RunCli) -> None:
    for instead in ELSEWHERE.values():
        program, *words = shlex.split(instead)
        if program == "gym-ray":
            depth = {"compat": 3, "env": 2, "config": 2, "hub": 2}.get(words[0], 1)
            path = [word.rstrip(",") for word in words[:depth]]
            assert gym_ray(*path, "--help")[0] == 0, instead


def test_flags_are_the_arguments_that_they_stand_for() -> None:
    texts = as_arguments(
        {
            "agent_name": "x",
            "input_jsonl_fpath": "in",
            "output_jsonl_fpath": "out",
            "limit": "3",
            "num_repeats": None,
            "responses_create_params.temperature": "0.7",
            "resume_from_cache": True,
            "disable_aggregation": False,
        },
        configs=["a.yaml", "b.yaml"],
    )

    found, overrides = parsed(RolloutArguments, [*texts, "collect.max_attempts=5"])

    old = ["+config_paths=[a.yaml,b.yaml]", "+agent_name=x", "+input_jsonl_fpath=in"]
    old += ["+output_jsonl_fpath=out", "+limit=3", "+responses_create_params.temperature=0.7"]
    old += ["+resume_from_cache=true", "collect.max_attempts=5"]
    assert (found, overrides) == parsed(RolloutArguments, old)


def test_both_spellings_collect_the_same_files(
    gym_ray: RunCli, config: Path, write_lines: Write
) -> None:
    write_lines(["{one", "{two"], "rows.jsonl")
    folder = config.parent
    code, out, _ = gym_ray(
        "compat", "eval", "run", "--no-serve", "--config", config, "-i", folder / "rows.jsonl",
        "-o", folder / "new" / "r.jsonl", "--num-repeats", "2", "--limit", "1", "--concurrency", 3,
        "-a", "math_agent", "--quiet", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["expected"] == 2

    code, _, _ = gym_ray(
        "compat", "ng_collect_rollouts", f"+config_paths=[{config}]", "--quiet",
        f"+input_jsonl_fpath={folder}/rows.jsonl", f"+output_jsonl_fpath={folder}/old/r.jsonl",
        "+num_repeats=2", "+limit=1", "+num_samples_in_parallel=3", "+agent_name=math_agent",
    )  # fmt: skip
    assert code == 0

    def files(kind: str) -> dict[str, int]:
        return {
            str(path.relative_to(folder / kind)): len(path.read_text().splitlines())
            for path in (folder / kind).glob("*.json*")
        }

    assert files("new") == files("old") != {}


def test_both_spellings_prepare_the_same_files(
    gym_ray: RunCli,
    config: Path,
    write_lines: Write,
    make_row: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_lines([make_row("1 + 1", expected_answer="2")], "rows.jsonl")
    monkeypatch.chdir(config.parent)
    mode = "example_validation"
    command = ["--config", config, "--mode", mode, "--output-dir", "new", "--quiet"]
    assert gym_ray("compat", "dataset", "collate", *command)[0] == 0
    old = [f"+config_paths=[{config}]", f"+mode={mode}", "+output_dirpath=old", "--quiet"]
    assert gym_ray("compat", "ng_prepare_data", *old)[0] == 0

    new_rows = (config.parent / "new" / "example.jsonl").read_text()
    assert new_rows == (config.parent / "old" / "example.jsonl").read_text() != ""


def test_what_is_started_is_the_config_with_every_agent_answered(config: Path) -> None:
    started = config_to_serve([f"+config_paths=[{config}]", "serve.port=8123"])
    assert started.serve.port == 8123
    assert started.policy.engine == "scripted"

    config.write_text(config.read_text().replace("agent_refs: [math_agent]", ""))
    with pytest.raises(ConfigError, match="no environment answers to agent 'math_agent'"):
        config_to_serve([f"+config_paths=[{config}]"])
    with pytest.raises(ConfigError, match=r"\+config_paths=… \(or --config\) is missing"):
        parsed(StartArguments, [])


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        (["--model", "m"], "policy.model=NAME"),
        (["--model-url", "http://h"], "policy.engine=openai"),
        (["--model-api-key", "k"], "api_key_env=NAME"),
        (["--split", "train"], "dataset collate"),
        (["--prompt-config", "p"], "gym-ray prepare --prompt"),
        (["--resources-server", "none"], "name the file itself with --config"),
        (["--num-repeat", "3"], "--num-repeats"),
        (["--limit", "0"], "greater than or equal to 1"),
    ],
)
def test_a_flag_that_means_nothing_here_says_what_to_write_instead(
    gym_ray: RunCli, config: Path, flag: list[str], says: str
) -> None:
    needed = ["--config", config, "--input", "in.jsonl", "--output", "out.jsonl"]

    code, _, err = gym_ray("compat", "eval", "run", *needed, *flag)

    assert code == 2
    assert says in err


def test_components_are_found_by_name_as_nemo_gym_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, first, second = (tmp_path / name for name in ("here", "first", "second"))
    for root, files in (
        (here, ["benchmarks/aime24/config.yaml", "environments/calendar/config.yaml"]),
        (first, ["resources_servers/mcqa/configs/mcqa.yaml"]),
        (second, ["resources_servers/mcqa/configs/mcqa.yaml",
                  "responses_api_models/vllm_model/configs/other.yaml"]),
    ):  # fmt: skip
        for file in files:
            (root / file).parent.mkdir(parents=True)
            (root / file).touch()
    monkeypatch.chdir(here)
    monkeypatch.setenv("NEMO_GYM_EXTRA_ROOTS", f"{second}{os.pathsep}")

    assert config_of("benchmark", "aime24") == "benchmarks/aime24/config.yaml"
    assert config_of("environment", "calendar") == "environments/calendar/config.yaml"
    inside = "resources_servers/mcqa/configs/mcqa.yaml"
    assert config_of("resources_server", "mcqa") == f"{second}/{inside}"
    assert config_of("resources_server", "mcqa", [str(first)]) == f"{first}/{inside}"
    model = config_of("model_type", "vllm_model/other")
    assert model == f"{second}/responses_api_models/vllm_model/configs/other.yaml"
    with pytest.raises(ConfigError, match="did you mean 'mcqa'"):
        config_of("resources_server", "mcq")
    assert as_arguments({}, configs=["a"], components={"benchmark": "aime24"}) == [
        "+config_paths=[a,benchmarks/aime24/config.yaml]"
    ]
