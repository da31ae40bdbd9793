"""Compaction of runs that have group verifiers: their groups are judged on the way.

Group verifiers that ask judges need the application, so such runs are compacted while it is up;
the others are compacted afterwards, without Ray, as all runs are.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gym_ray.collection.compaction import compact, is_compact
from gym_ray.collection.groups import GroupRewards
from gym_ray.config.load import RunConfig
from gym_ray.judging import Judge
from gym_ray.registry import load_group_verifiers
from gym_ray.store.index import Index
from gym_ray.store.run_directory import RunDirectory

#: Failures that are shown; the summary counts them all.
_SHOWN_FAILURES = 3


def has_groups(config: RunConfig) -> bool:
    """Whether any environment has group verifiers."""
    return any(section.group_verifiers for section in config.environments.values())


def judges_of_groups(config: RunConfig) -> list[str]:
    """Names of the judges that group verifiers ask.

    Raises:
        ConfigError: a group verifier cannot be loaded.
    """
    return sorted(load_group_verifiers(config).judges_asked())


def compact_run(
    config: RunConfig,
    index: Index,
    directory: RunDirectory,
    say: Callable[[str], None],
    application: str | None = None,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Compact a complete run.

    Args:
        config: names the group verifiers, if any.
        index: of all its rollouts.
        directory: where they are.
        say: told, in one line each, what is going on.
        application: Serve application whose judges the group verifiers ask, if they ask any.
        check: called while groups are judged; raises to give up.

    Returns:
        How many shards the dataset has.
    """
    segments = directory.path / "segments"
    if not has_groups(config) or is_compact(index, directory.rollouts):
        return compact(index, directory.rollouts, segments, check=directory.check)
    say("judging groups")
    connect = None if application is None else functools.partial(_connect, config, application)
    with GroupRewards(config, connect, check) as groups:
        shards = compact(index, directory.rollouts, segments, groups.add, directory.check)
    for failure in groups.failures[:_SHOWN_FAILURES]:
        say(failure)
    return shards


def _connect(config: RunConfig, application: str) -> Awaitable[Mapping[str, Judge]]:
    from gym_ray.serving.judges import connect_judges
    from gym_ray.serving.policy_renderer import load_policy_renderer

    handles = {name: _handle(name, application) for name in judges_of_groups(config)}
    return connect_judges(config, handles, load_policy_renderer)


def _handle(judge: str, application: str) -> Any:
    from ray.serve.handle import DeploymentHandle

    from gym_ray.serving.application import JUDGE_DEPLOYMENT

    handle: Any = DeploymentHandle(JUDGE_DEPLOYMENT.format(name=judge), application)
    # This process is no replica: the router gets a loop of its own.
    handle._init(_run_router_in_separate_loop=True)
    return handle
