"""Judges for `gym-ray env check`: scripted ones, in this process."""

from __future__ import annotations

from collections.abc import Sequence

from gym_ray.config.load import RunConfig
from gym_ray.judging import Judge
from gym_ray.policies.judging import JudgeLimits, PolicyJudge, chat_in_tokens
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.sampling import Sampling


def unscripted(config: RunConfig, names: Sequence[str]) -> str | None:
    """What to do about judges that only a model could be; None when all are scripted."""
    real = [name for name in names if config.judges[name].engine != "scripted"]
    if not real:
        return None
    return (
        f"asks {', '.join(real)}, and no model runs here; put a check.yaml beside the config, the "
        f"same with judges.{real[0]}: {{engine: scripted, engine_args: {{reply: …}}}}"
    )


def scripted_judges(
    config: RunConfig, names: Sequence[str], renderer: RolloutRenderer
) -> dict[str, Judge]:
    """The judges of these names.

    Args:
        config: has their sections.
        names: which ones; all are scripted.
        renderer: of the scripted policy.
    """
    return {name: _scripted_judge(config, name, renderer) for name in names}


def _scripted_judge(config: RunConfig, name: str, renderer: RolloutRenderer) -> Judge:
    section = config.judges[name]
    engine = ScriptedEngine(model=section.model, engine_args=dict(section.engine_args))
    return PolicyJudge(
        name,
        chat_in_tokens(renderer, engine.generate),
        Sampling(**section.sampling.model_dump()),
        JudgeLimits(max_concurrency=section.max_concurrency, max_retries=section.max_retries),
    )
