"""What a running service says of itself: metrics, log lines and traces, from real processes."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

import gym_ray
from gym_ray.telemetry.metrics import METRICS
from tests.applications import Playground
from tests.cluster import SPANS_PORT, sums, until
from tests.spans import ReceivedSpan, receiver

pytestmark = pytest.mark.long(
    "an application of eight environments (60 s of CPU time); what is counted, and when, is "
    "in tests/unit/test_observers.py"
)

ENVIRONMENT = "observed"
PROMPT_MARKER = "zebra crossing"


class Observed(NamedTuple):
    """One collection and what there was to be seen of it."""

    summary: gym_ray.RunSummary
    rollouts: list[gym_ray.Rollout]
    spans: list[ReceivedSpan]
    metrics: set[str]


@pytest.fixture(scope="module")
def observed(playground: Playground, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    folder = tmp_path_factory.mktemp("observed")
    # The same rows in every session, so the same requests fail.
    rows = sums(40, Path("/observed"), agent_ref=ENVIRONMENT)
    for number, row in enumerate(rows):
        text = f"flaky {PROMPT_MARKER}" if number < 10 else PROMPT_MARKER
        row["responses_create_params"]["instructions"] = text
    rows[3]["verify"] = rows[7]["verify"] = "raise"
    rows[11]["reset_error"] = f"no level for {PROMPT_MARKER}"
    config = playground.config(
        folder,
        rows,
        collect__max_attempts=6,
        collect__num_repeats=2,
        observability__trace_share=1.0,
    )
    names: set[str] = set()
    with receiver(SPANS_PORT) as spans:
        summary = gym_ray.collect(config, quiet=True)
        until(lambda: _is_counted(summary, names), 60, "all metrics count every rollout")
        rollouts = list(gym_ray.read_rollouts(summary.output))
        until(lambda: _is_traced(rollouts, spans), 60, "the spans of every rollout arrive")
    return Observed(summary, rollouts, spans, names)


#: A gauge is there only while something sets it, and policies of other tests may run.
COUNTED = {name for metric in METRICS if metric.kind != "gauge" for name in metric.exported}


def _is_counted(summary: gym_ray.RunSummary, names: set[str]) -> bool:
    """Processes export at times of their own, and not everything at once."""
    names |= {name for name, _, _ in _samples()}
    return (
        names >= COUNTED
        and sum(_by_label("ray_gym_ray_rollouts_total", "status").values()) >= summary.expected
    )


def _is_traced(rollouts: list[gym_ray.Rollout], spans: list[ReceivedSpan]) -> bool:
    """Every process sends its spans at times of its own."""
    arrived = Counter(span.name for span in spans)
    turns = sum(len(rollout.turns) for rollout in rollouts)
    attempts = sum(rollout.attempts for rollout in rollouts)
    return (
        (arrived["rollout"], arrived["verification"]) == (len(rollouts), turns)
        and arrived["attempt"] == attempts
        and arrived["policy turn"] >= turns
    )


def _samples() -> list[tuple[str, dict[str, str], float]]:
    """What Prometheus would read from the agent of the only node."""
    import ray

    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(address, timeout=10).read().decode()
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def _by_label(name: str, label: str) -> Counter[str]:
    """Sums of a metric of this module's environment over processes, by a label."""
    found: Counter[str] = Counter()
    for sample, labels, value in _samples():
        if sample == name and labels["environment"] == ENVIRONMENT:
            found[labels[label]] += int(value)
    return found


def test_counters_equal_the_summary(observed: Observed) -> None:
    summary, rollouts = observed.summary, observed.rollouts

    statuses = _by_label("ray_gym_ray_rollouts_total", "status")
    assert statuses == {"completed": summary.completed, "failed": summary.failed}
    assert (summary.completed, summary.failed) == (74, 6)
    assert _by_label("ray_gym_ray_failures_total", "kind") == summary.failure_kinds
    retries = _by_label("ray_gym_ray_retries_total", "kind")
    assert retries == {"policy_error": sum(rollout.attempts - 1 for rollout in rollouts)}
    turns = [turn for rollout in rollouts for turn in rollout.turns]
    assert _by_label("ray_gym_ray_tokens_total", "source") == {
        "sampled": summary.sampled_tokens,
        "prompt": sum(turn.prompt_length for turn in turns),
    }


def test_histograms_hold_one_value_per_turn_or_rollout(observed: Observed) -> None:
    turns = sum(len(rollout.turns) for rollout in observed.rollouts)

    assert _by_label("ray_gym_ray_stage_seconds_count", "stage") == {
        "queue": turns,
        "policy_turn": turns,
        "verification": turns,  # One turn each, the rollouts whose verifier raised included.
        "rollout": observed.summary.expected,
    }
    rewards = _by_label("ray_gym_ray_reward_count", "environment")
    assert rewards == {ENVIRONMENT: observed.summary.completed}
    ages = _by_label("ray_gym_ray_staleness_versions_count", "environment")
    assert ages == {ENVIRONMENT: turns}


def test_every_metric_is_exported_under_the_names_it_says(observed: Observed) -> None:
    ours = {name for name in observed.metrics if name.startswith("ray_gym_ray_")}

    assert COUNTED <= ours <= {name for metric in METRICS for name in metric.exported}


def test_a_trace_runs_through_stage_environment_and_policy(observed: Observed) -> None:
    spans = {span.span: span for span in observed.spans}
    traces: dict[str, list[ReceivedSpan]] = {}
    for span in observed.spans:
        traces.setdefault(span.trace, []).append(span)
    rollouts = {rollout.spec.rollout_id: rollout for rollout in observed.rollouts}

    assert len(traces) == len(rollouts)
    for trace in traces.values():
        (root,) = (span for span in trace if span.name == "rollout")
        rollout = rollouts[root.attributes["gym_ray.rollout_id"]]
        assert root.parent == ""
        assert root.failed == (rollout.status == "failed")
        assert root.attributes["gym_ray.run_id"] == observed.summary.run_id
        named = Counter(span.name for span in trace)
        assert named["attempt"] == rollout.attempts == root.attributes["gym_ray.attempts"]
        assert named["verification"] == len(rollout.turns)
        parents = {span.name: spans[span.parent].name for span in trace if span.parent}
        expected = {"attempt": "rollout", "policy turn": "attempt", "verification": "attempt"}
        assert parents == {name: expected[name] for name in parents}
    processes = {
        name: {span.process for span in observed.spans if span.name == name}
        for name in ("rollout", "attempt", "policy turn")
    }
    assert len(set.union(*processes.values())) == 3, processes


def test_every_failed_rollout_has_one_log_line_without_its_prompt(observed: Observed) -> None:
    lines = _log_lines(observed.summary)
    failed = [rollout for rollout in observed.rollouts if rollout.status == "failed"]

    assert sorted(line["rollout_id"] for line in lines if "error_kind" in line) == sorted(
        rollout.spec.rollout_id for rollout in failed
    )
    assert Counter(line["error_kind"] for line in lines) == observed.summary.failure_kinds
    for line in lines:
        assert line.keys() >= {"time", "level", "message", "run_id", "environment", "attempts"}
    assert PROMPT_MARKER not in json.dumps([lines, [s.attributes for s in observed.spans]])


def _log_lines(summary: gym_ray.RunSummary) -> list[dict[str, Any]]:
    """JSON lines of a run in the logs of its own and the session's processes."""
    import ray

    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    return [
        json.loads(line)
        for path in [Path(summary.output, "log.txt"), *logs.glob("worker-*.err")]
        for line in path.read_text().splitlines()
        if line.startswith("{") and summary.run_id in line
    ]
