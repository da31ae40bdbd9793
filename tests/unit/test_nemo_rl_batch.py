"""What ends a batch of NeMo RL's, by how its rows failed; and rows of which none is started."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest

from gym_ray.client import RequestRefused, ServiceUnavailable, Unauthorized
from gym_ray.config.environment import EnvironmentConfig
from gym_ray.errors import RETRYABLE, FailureKind
from gym_ray.integrations.nemo_rl.batch import checked, identity_of
from gym_ray.integrations.nemo_rl.failures import (
    FailedRow,
    GymTerminalEpisodeFailure,
    GymTransportError,
    RolloutDataFailure,
    failure_of,
    failure_of_call,
)
from gym_ray.integrations.nemo_rl.hosted import Hosted
from tests.nemo_rl_consumer import is_infrastructure, is_terminal, named_group

HOSTED = Hosted(
    {
        "math": EnvironmentConfig(agent="single_turn", agent_refs=["math_agent"]),
        "tools": EnvironmentConfig(agent="tool_calling"),
    }
)


def task(**fields: Any) -> dict[str, Any]:
    return {"responses_create_params": {"input": "2 + 2 = ?"}, **fields}


def math(**fields: Any) -> dict[str, Any]:
    return task(agent_ref={"name": "math"}, **fields)


# Failures.


@pytest.mark.parametrize(
    ("kinds", "infrastructure"),
    [
        ([FailureKind.POLICY_UNAVAILABLE], True),
        ([FailureKind.ROLLOUT_TIMEOUT], True),
        ([FailureKind.VERIFIER_ERROR, FailureKind.SANDBOX_ERROR], True),
        ([FailureKind.POLICY_REJECTED, None], False),
        ([FailureKind.VERIFIER_ERROR] * 7, False),
    ],
)
def test_failures_survive_pickling_as_what_they_are(
    kinds: list[FailureKind | None], infrastructure: bool
) -> None:
    failed = [FailedRow(index, kind, "it broke") for index, kind in enumerate(kinds)]

    error = pickle.loads(pickle.dumps(failure_of(failed, 16)))

    assert is_infrastructure(error) == infrastructure
    assert isinstance(error, GymTransportError if infrastructure else RolloutDataFailure)
    assert error.args == (str(error),)
    assert str(error).startswith(f"{len(kinds)} of 16 rollouts failed: row 0: ")
    assert ("and 2 more" in str(error)) == (len(kinds) == 7)


def test_calls_that_cannot_go_on_are_infrastructure_unless_the_service_refuses() -> None:
    assert isinstance(failure_of_call(ServiceUnavailable("gone")), GymTransportError)
    for refusal in (RequestRefused("no"), Unauthorized("no")):
        assert isinstance(failure_of_call(refusal), RolloutDataFailure)


@pytest.mark.parametrize("kind", list(FailureKind))
def test_every_kind_of_failure_is_of_one_class(kind: FailureKind) -> None:
    error = failure_of([FailedRow(0, kind, "it broke")], 1)

    assert is_infrastructure(error) == (kind in RETRYABLE | {FailureKind.ROLLOUT_TIMEOUT})
    assert is_terminal(error) == (kind is FailureKind.TASK_INVALID)


def test_a_row_that_never_runs_ends_its_group_and_leaves_others_to_be_asked_for_again() -> None:
    def of(*rows: tuple[FailureKind, Any]) -> Exception:
        failed = [FailedRow(n, kind, "no", group) for n, (kind, group) in enumerate(rows)]
        return failure_of(failed, 8)

    never, lost = FailureKind.TASK_INVALID, FailureKind.SANDBOX_ERROR
    assert is_terminal(of((never, "g"), (lost, "g")))
    assert is_infrastructure(of((never, "g"), (lost, "h")))
    assert is_infrastructure(of((never, None), (lost, None)))
    assert is_terminal(of((never, "g"), (FailureKind.VERIFIER_ERROR, "h")))


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        ("GymTransportError", "GymTransportError"),
        ("RolloutDataFailure", "RolloutDataFailure"),
        ("GymTerminalEpisodeFailure", "GymTerminalEpisodeFailure"),
        # August 2026 has no such class, and tries what is data no more than twice.
        ("GymTerminalEpisodeFailure", "RolloutDataFailure"),
    ],
)
def test_where_nemo_rl_reads_a_failure_it_is_of_its_class(own: str, theirs: str) -> None:
    program = (
        "import pickle, sys, types\n"
        "theirs = sys.modules['nemo_rl.experience.failures'] = types.ModuleType('failures')\n"
        f"theirs.{theirs} = type({theirs!r}, (Exception,), {{}})\n"
        f"theirs.RolloutFailure = type('RolloutFailure', (Exception,), {{}})\n"
        f"from gym_ray.integrations.nemo_rl.failures import {own}\n"
        f"error = pickle.loads(pickle.dumps({own}('2 of 4')))\n"
        f"assert type(error) is theirs.{theirs}, type(error)\n"
        "assert str(error) == '2 of 4'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# Rows, before any rollout starts.


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([task()], "_rowidx=None"),
        ([task(_rowidx=True)], "_rowidx=True"),
        ([task(_rowidx="0")], "_rowidx='0'"),
        ([math(_rowidx=1), math(_rowidx=1)], "share a _rowidx"),
        (
            [math(_rowidx=n, _ng_rollout_id="r-1") for n in range(2)],
            "rows 0 and 1 of the batch have the same identity",
        ),
    ],
)
def test_a_call_that_names_its_rows_wrongly_is_refused(rows: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked(rows, HOSTED)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"_rowidx": 3, "agent_ref": {"name": "math"}},
            "row 3: task_invalid: has no 'responses_cr",
        ),
        (
            task(_rowidx=3, agent_ref={"name": "poetry"}),
            "'poetry', which no environment answers to",
        ),
        (task(_rowidx=3, task_source="poetry"), "'poetry', which no environment answers to"),
        (task(_rowidx=3), "has no agent_ref, and several environments"),
        (math(_rowidx=3, weight=float("nan")), "cannot be written as JSON"),
        (math(_rowidx=3, image=b"png"), "cannot be written as JSON"),
        (
            {**math(_rowidx=3), "responses_create_params": {"input": "2", "top_k": 4}},
            "unknown key 'top_k'",
        ),
        (
            {**math(_rowidx=3), "responses_create_params": {"input": "2", "stop": ["4"]}},
            "unknown key 'stop'",
        ),
    ],
)
def test_rows_that_can_never_run_are_all_told_before_any_runs(row: Any, message: str) -> None:
    with pytest.raises(GymTerminalEpisodeFailure, match=f"(?s)1 of 2 .*{message}"):
        checked([math(_rowidx=0), row], HOSTED)
    with pytest.raises(
        GymTerminalEpisodeFailure, match=r"2 of 3 rollouts failed: row 3: .*; row 4"
    ):
        checked([row, {**row, "_rowidx": 4}, math(_rowidx=0)], HOSTED)


def test_a_group_goes_to_one_environment() -> None:
    two = [math(), task(agent_ref={"name": "tools"})]
    message = "rows 0 and 1 are of one group .* 'math' and 'tools'"
    for group in (
        named_group(two),
        [{**row, "_rowidx": n, "_ng_task_index": 5} for n, row in enumerate(two)],
    ):
        with pytest.raises(GymTerminalEpisodeFailure, match=message):
            checked(group, HOSTED)
    apart = [{**row, "_rowidx": n} for n, row in enumerate(two)]
    assert [row.environment for row in checked(apart, HOSTED)] == ["math", "tools"]
    with pytest.raises(GymTerminalEpisodeFailure, match=message):
        checked(apart, HOSTED, is_group=True)
    names = [math(), task(agent_ref="math_agent"), task(task_source="math_agent")]
    assert {row.environment for row in checked(named_group(names), HOSTED)} == {"math"}


def test_an_agent_ref_goes_before_a_source() -> None:
    (row,) = checked([math(_rowidx=0, task_source="tools")], HOSTED)
    assert row.environment == "math"


@pytest.mark.parametrize(
    ("fields", "identity"),
    [
        ({"_ng_rollout_id": "r-1"}, ("r-1", 0)),
        ({"_ng_rollout_id": "r-1", "_ng_attempt_index": 2}, ("r-1", 2)),
        (
            {"_ng_rollout_id": "r-1", "_ng_group_id": "g", "_ng_rollout_index": 3},
            ("r-1", 0),
        ),
        ({"_ng_group_id": "g", "_ng_rollout_index": 3}, ("g", 0, 3)),
        ({"_ng_group_id": "g", "_ng_group_attempt": 1, "_ng_rollout_index": 0}, ("g", 1, 0)),
        ({"_ng_group_id": "g"}, None),
        ({"_ng_task_index": 4, "_ng_rollout_index": 0}, None),
        ({}, None),
    ],
)
def test_the_identity_of_a_row(fields: dict[str, Any], identity: Any) -> None:
    assert identity_of(math(**fields)) == identity


def test_content_is_what_a_rollout_depends_on() -> None:
    def content(row: dict[str, Any]) -> bytes:
        return checked([row], HOSTED)[0].content

    own = content(task(task_source="math", answer="4", _rowidx=0, _ng_group_id="g"))
    # NeMo RL writes where a row went into it, and counts rows anew when it asks again.
    assert own == content({"answer": "4", **math(_rowidx=7, task_source="math")})
    assert own != content(math(answer="5", _rowidx=0))


def test_the_entries_of_a_service_are_all_names_that_rows_may_go_by() -> None:
    kinds = ["responses_api_agents"]
    assert HOSTED.entries() == {"math": kinds, "math_agent": kinds, "tools": kinds}
    assert HOSTED.implementations() == {
        "math": "single_turn", "math_agent": "single_turn", "tools": "tool_calling",
    }  # fmt: skip
