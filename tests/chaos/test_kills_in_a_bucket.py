"""A collection into an object store, killed and continued."""

from __future__ import annotations

import collections
from pathlib import Path

import gym_ray
from gym_ray.rows import broken_invariants
from tests.chaos.test_kills import LOST_PER_KILL, ROLLOUTS, config_file, start_collect
from tests.cluster import logged_requests, until

__all__ = ["config_file"]


def test_killed_driver_resumes_in_a_bucket_without_loss_or_duplicates(
    cluster: str, bucket: str, config_file: Path, tmp_path: Path
) -> None:
    requests, said = tmp_path / "requests", tmp_path / "output"
    output = f"{bucket}/{tmp_path.name}/run"
    driver = start_collect(config_file, said, cluster, f"collect.output={output}")
    until(
        lambda: len(logged_requests(requests)) >= ROLLOUTS // 2,
        150,
        f"half of the requests; the driver said: {said.read_text()}",
    )
    driver.kill()
    driver.wait()

    driver = start_collect(config_file, said, cluster, f"collect.output={output}")

    assert driver.wait(timeout=300) == 0, said.read_text()
    rollouts = list(gym_ray.read_rollouts(output))
    ids = [rollout.spec.rollout_id for rollout in rollouts]
    assert len(ids) == len(set(ids)) == ROLLOUTS
    assert all(rollout.status == "completed" for rollout in rollouts)
    assert broken_invariants(rollouts) == []
    runs = collections.Counter(logged_requests(requests))
    assert set(runs) == set(ids)
    assert sum(runs.values()) - ROLLOUTS <= LOST_PER_KILL
