"""`gym-ray compat`: NeMo Gym's commands, with their arguments. See docs/migration.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from gym_ray.cli.arguments import Quiet
from gym_ray.compat.elsewhere import ELSEWHERE
from gym_ray.errors import ConfigError


def _group(name: str, about: str) -> typer.Typer:
    return typer.Typer(
        name=name, help=about, no_args_is_help=True, pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )  # fmt: skip


app = _group("compat", "NeMo Gym's commands, `gym` and `ng_*`, by our pipeline.")
_eval = _group("eval", "Collect rollouts, as `gym eval` does.")
_dataset = _group("dataset", "Check and collate task files, as `gym dataset` does.")
_env = _group("env", "Serve environments, as `gym env` does.")
for part in (_eval, _dataset, _env):
    app.add_typer(part)

_Texts = Annotated[
    list[str] | None, typer.Argument(metavar="+KEY=VALUE", help="Arguments as Hydra takes them.")
]
_Needed = Annotated[list[str], typer.Argument(metavar="+KEY=VALUE", help="As NeMo Gym takes them.")]
_Configs = Annotated[
    list[str] | None,
    typer.Option("--config", metavar="PATH", help="Config file, ours or theirs; repeatable."),
]
_Benchmark = Annotated[
    str | None, typer.Option("--benchmark", metavar="NAME", help="Its config file, by name.")
]
_Environment = Annotated[
    str | None, typer.Option("--environment", metavar="NAME", help="Its config file, by name.")
]
_ResourcesServer = Annotated[
    str | None,
    typer.Option("--resources-server", metavar="NAME", help="Its config file, by name."),
]
_ModelType = Annotated[
    str | None, typer.Option("--model-type", metavar="NAME", help="Its config file, by name.")
]
_SearchDirs = Annotated[
    list[str] | None,
    typer.Option("--search-dir", metavar="DIR", help="Where names are looked for; repeatable."),
]
_Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Refused with what to write instead: policies are ours."),
]
_ModelUrl = Annotated[str | None, typer.Option("--model-url", help="As --model.")]
_ModelKey = Annotated[str | None, typer.Option("--model-api-key", help="As --model.")]
_OnInvalid = Annotated[
    Literal["fail", "drop"],
    typer.Option(help="fail: write nothing if a row is rejected; drop: leave it out."),
]
_SummaryJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
_ReportJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@_eval.command("run")
def eval_run(
    texts: _Texts = None,
    config: _Configs = None,
    benchmark: _Benchmark = None,
    environment: _Environment = None,
    resources_server: _ResourcesServer = None,
    model_type: _ModelType = None,
    search_dir: _SearchDirs = None,
    agent: Annotated[
        str | None, typer.Option("--agent", "-a", help="Agent that all rows are given to.")
    ] = None,
    input: Annotated[str | None, typer.Option("--input", "-i", help="Task rows.")] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Rollouts; other files are named after it.")
    ] = None,
    limit: Annotated[
        str | None, typer.Option("--limit", metavar="N", help="Only the first so many rows.")
    ] = None,
    num_repeats: Annotated[
        str | None, typer.Option("--num-repeats", metavar="N", help="Rollouts of each row.")
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option("--concurrency", metavar="N", help="Rollouts in flight at once.")
    ] = None,
    temperature: Annotated[
        str | None, typer.Option("--temperature", help="Sampling temperature of all rows.")
    ] = None,
    top_p: Annotated[str | None, typer.Option("--top-p", help="Nucleus mass of all rows.")] = None,
    max_output_tokens: Annotated[
        str | None,
        typer.Option("--max-output-tokens", metavar="N", help="Tokens of a turn at most."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what an earlier command left.")
    ] = False,
    disable_aggregation: Annotated[
        bool, typer.Option("--disable-aggregation", help="No aggregate metrics.")
    ] = False,
    no_serve: Annotated[
        bool, typer.Option("--no-serve", help="Means nothing here: no servers run beforehand.")
    ] = False,
    prompt_config: Annotated[
        str | None, typer.Option("--prompt-config", help="As --split.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Refused with what to write instead.")
    ] = None,
    model: _Model = None,
    model_url: _ModelUrl = None,
    model_api_key: _ModelKey = None,
    json: _SummaryJson = False,
    quiet: Quiet = False,
) -> None:
    """Collect rollouts, and write NeMo Gym's files of them beside ours.

    Which policy and environments: --config, gym-ray configs and NeMo Gym's. Keys of gym-ray's
    config can be given, too (collect.max_attempts=5).

    Example:

      gym-ray compat eval run --config environments/math/config.yaml \\
        --agent math_with_judge_simple_agent --input tasks.jsonl \\
        --output results/rollouts.jsonl --num-repeats 4 --temperature 0.7
    """
    from gym_ray.compat.gym_flags import as_arguments

    flags = {
        "agent_name": agent,
        "input_jsonl_fpath": input,
        "output_jsonl_fpath": output,
        "limit": limit,
        "num_repeats": num_repeats,
        "num_samples_in_parallel": concurrency,
        "responses_create_params.temperature": temperature,
        "responses_create_params.top_p": top_p,
        "responses_create_params.max_output_tokens": max_output_tokens,
        "resume_from_cache": resume,
        "disable_aggregation": disable_aggregation,
        "prompt_config": prompt_config,
        "split": split,
        **_policy(model, model_url, model_api_key),
    }
    arguments = as_arguments(
        flags,
        configs=config or [],
        components=_components(benchmark, environment, resources_server, model_type),
        search_dirs=search_dir or [],
    )
    _collect([*arguments, *(texts or [])], json=json, quiet=quiet)


@_dataset.command("collate")
def dataset_collate(
    texts: _Texts = None,
    config: _Configs = None,
    resources_server: _ResourcesServer = None,
    model_type: _ModelType = None,
    search_dir: _SearchDirs = None,
    mode: Annotated[
        str | None,
        typer.Option("--mode", metavar="train_preparation|example_validation", help="Which files."),
    ] = None,
    output_dir: Annotated[
        str | None, typer.Option("--output-dir", metavar="DIR", help="Folder of what is written.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Refused with what to do instead.")
    ] = False,
    on_invalid: _OnInvalid = "fail",
    json: _ReportJson = False,
    quiet: Quiet = False,
) -> None:
    """Check and collate the declared task files.

    NeMo Gym's files are written beside them, ours into the folder.

    Example:

      gym-ray compat dataset collate --config resources_servers/mcqa/configs/mcqa.yaml \\
        --mode example_validation --output-dir data/mcqa
    """
    from gym_ray.compat.gym_flags import as_arguments

    arguments = as_arguments(
        {"mode": mode, "output_dirpath": output_dir, "should_download": download},
        configs=config or [],
        components=_components(None, None, resources_server, model_type),
        search_dirs=search_dir or [],
    )
    _prepare([*arguments, *(texts or [])], on_invalid=on_invalid, json=json, quiet=quiet)


@_env.command("start")
def env_start(
    texts: _Texts = None,
    config: _Configs = None,
    benchmark: _Benchmark = None,
    environment: _Environment = None,
    resources_server: _ResourcesServer = None,
    model_type: _ModelType = None,
    search_dir: _SearchDirs = None,
    model: _Model = None,
    model_url: _ModelUrl = None,
    model_api_key: _ModelKey = None,
) -> None:
    """Serve policy and environments until Ctrl-C, as `gym-ray serve` does.

    Whole rollouts in NeMo Gym's row shapes are at /run, OpenAI's API at /v1.

    Example:

      gym-ray compat env start --config environments/math/config.yaml serve.port=8080
    """
    from gym_ray.compat.gym_flags import as_arguments

    arguments = as_arguments(
        _policy(model, model_url, model_api_key),
        configs=config or [],
        components=_components(benchmark, environment, resources_server, model_type),
        search_dirs=search_dir or [],
    )
    _serve([*arguments, *(texts or [])])


@app.command("ng_collect_rollouts")
def ng_collect_rollouts(
    arguments: _Needed, json: _SummaryJson = False, quiet: Quiet = False
) -> None:
    """What later versions call `eval run`.

    Example:

      gym-ray compat ng_collect_rollouts "+config_paths=[environments/math/config.yaml]" \\
        +agent_name=math_with_judge_simple_agent +input_jsonl_fpath=tasks.jsonl \\
        +output_jsonl_fpath=results/rollouts.jsonl +num_repeats=4 \\
        +responses_create_params.temperature=0.7
    """
    _collect(arguments, json=json, quiet=quiet)


@app.command("ng_prepare_data")
def ng_prepare_data(
    arguments: _Needed,
    on_invalid: _OnInvalid = "fail",
    json: _ReportJson = False,
    quiet: Quiet = False,
) -> None:
    """What later versions call `dataset collate`.

    Example:

      gym-ray compat ng_prepare_data \\
        "+config_paths=[resources_servers/mcqa/configs/mcqa.yaml]" +mode=example_validation \\
        +output_dirpath=data/mcqa
    """
    _prepare(arguments, on_invalid=on_invalid, json=json, quiet=quiet)


@app.command("ng_run")
def ng_run(arguments: _Needed) -> None:
    """What later versions call `env start`.

    Example:

      gym-ray compat ng_run "+config_paths=[environments/math/config.yaml]" serve.port=8080
    """
    _serve(arguments)


def _collect(arguments: list[str], *, json: bool, quiet: bool) -> None:
    from gym_ray.compat.collect_rollouts import collect_rollouts, demand

    collected = collect_rollouts(arguments, quiet=quiet)
    typer.echo(collected.to_json() if json else collected.render())
    demand(collected)


def _prepare(
    arguments: list[str], *, on_invalid: Literal["fail", "drop"], json: bool, quiet: bool
) -> None:
    from gym_ray.compat.prepare_data import demand, prepare_data
    from gym_ray.prepare.prepare_report import render

    prepared = prepare_data(arguments, on_invalid=on_invalid, quiet=quiet)
    told = "\n".join(part for part in (render(prepared.report), prepared.render()) if part)
    typer.echo(prepared.to_json() if json else told)
    demand(prepared)


def _serve(arguments: list[str]) -> None:
    from gym_ray.compat.start import config_to_serve
    from gym_ray.serving.serve import serve

    serve(config_to_serve(arguments), report=lambda line: typer.echo(line, err=True))


def _components(
    benchmark: str | None,
    environment: str | None,
    resources_server: str | None,
    model_type: str | None,
) -> dict[str, str | None]:
    return {
        "benchmark": benchmark,
        "environment": environment,
        "resources_server": resources_server,
        "model_type": model_type,
    }


def _policy(
    model: str | None, model_url: str | None, model_api_key: str | None
) -> dict[str, str | None]:
    return {
        "policy_model_name": model,
        "policy_base_url": model_url,
        "policy_api_key": model_api_key,
    }


def _tell_elsewhere() -> None:
    """Commands that NeMo Gym has and we do otherwise say what to write instead."""
    groups = {"eval": _eval, "dataset": _dataset, "env": _env, "": app}
    for names, instead in ELSEWHERE.items():
        for name in names:
            group, _, command = name.rpartition(" ")
            if group not in groups:
                groups[group] = _group(group, "Done otherwise here.")
                app.add_typer(groups[group], hidden=True)
            groups[group].command(
                command,
                hidden=True,
                context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
            )(_telling(name, instead))


def _telling(name: str, instead: str) -> Any:
    def tell() -> None:
        raise ConfigError(f"{name} is not done here under that name; write instead: {instead}")

    tell.__doc__ = f"Done otherwise here: {instead}."
    return tell


_tell_elsewhere()
