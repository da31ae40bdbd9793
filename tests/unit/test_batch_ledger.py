"""The ledger of a batch: whatever order facts come in, no row runs twice and no result is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gym_ray.batches import ledger as batch_ledger
from gym_ray.batches.ledger import Ledger
from gym_ray.batches.protocol import BatchError
from gym_ray.errors import FailureKind
from gym_ray.rollout import Rollout, RolloutSpec, failed_rollout

MakeRollout = Callable[..., Rollout]


def spec(content: int = 0) -> RolloutSpec:
    return RolloutSpec("", f"{content + 1:016x}", 0, 0, "sums", "http", 0, "{}")


def finished(ledger: Ledger, make_rollout: MakeRollout, **fields: Any) -> None:
    """Run everything that waits."""
    while (started := ledger.start(begun=False)) is not None:
        index, row = started
        ledger.finish(index, row, make_rollout(spec=row.spec, **fields))


def indices(ledger: Ledger, after: int = 0) -> list[int]:
    return [index for index, _ in ledger.page(after).results]


def test_a_row_given_twice_starts_once(make_rollout: MakeRollout) -> None:
    ledger = Ledger(room=10)
    for _ in range(2):
        assert ledger.submit(3, spec())

    assert ledger.start(begun=False) is not None
    assert ledger.start(begun=False) is None
    assert ledger.submit(3, spec())
    assert ledger.start(begun=False) is None


def test_a_result_is_told_until_acknowledged_and_then_never_again(
    make_rollout: MakeRollout,
) -> None:
    ledger = Ledger(room=10)
    ledger.submit(3, spec())
    finished(ledger, make_rollout)
    assert indices(ledger) == indices(ledger) == [3]
    assert ledger.kept_bytes > 0

    assert ledger.acknowledge([3, 3]) == []

    assert indices(ledger) == []
    assert ledger.submit(3, spec()) is False
    assert (ledger.kept_bytes, ledger.finished, ledger.acknowledged) == (0, 0, 1)


def test_another_content_is_refused_before_and_after_the_acknowledgement(
    make_rollout: MakeRollout,
) -> None:
    ledger = Ledger(room=10)
    ledger.submit(0, spec(1))
    with pytest.raises(BatchError, match="row 0 has another content"):
        ledger.submit(0, spec(2))
    finished(ledger, make_rollout)
    ledger.acknowledge([0])
    with pytest.raises(BatchError, match="row 0 has another content"):
        ledger.submit(0, spec(2))


def test_a_row_that_is_acknowledged_while_it_runs_is_to_be_stopped() -> None:
    ledger = Ledger(room=10)
    ledger.submit(0, spec())
    ledger.start(begun=False)

    assert ledger.acknowledge([0, 1]) == [0]
    assert ledger.submit(1, spec(5)) is False


def test_what_was_given_up_runs_again_and_its_late_end_counts_for_nothing(
    make_rollout: MakeRollout,
) -> None:
    ledger = Ledger(room=10)
    ledger.submit(0, spec())
    ledger.submit(1, spec())
    started = ledger.start(begun=False)
    assert started is not None

    assert ledger.give_up() == [0]
    ledger.submit(0, spec())
    ledger.finish(0, started[1], make_rollout())

    assert indices(ledger) == []
    assert (ledger.waiting, ledger.running) == (1, 0)
    finished(ledger, make_rollout)
    assert indices(ledger) == [0]


def test_another_holder_is_told_of_rows_it_gives_whatever_its_cursor(
    make_rollout: MakeRollout,
) -> None:
    ledger = Ledger(room=10)
    ledger.submit(0, spec())
    finished(ledger, make_rollout)
    cursor = ledger.page(0).cursor

    ledger.disown()

    assert indices(ledger) == []
    ledger.submit(0, spec())
    assert indices(ledger, cursor) == [0]


def test_there_is_room_again_for_each_row_acknowledged(make_rollout: MakeRollout) -> None:
    ledger = Ledger(room=2)
    ledger.submit(0, spec())
    ledger.submit(1, spec())
    with pytest.raises(BatchError, match="acknowledge results before"):
        ledger.submit(2, spec())
    finished(ledger, make_rollout)
    ledger.acknowledge([0])
    assert ledger.submit(2, spec())


def test_a_batch_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_ledger, "MAX_ROWS", 3)
    monkeypatch.setattr(batch_ledger, "_MAX_AHEAD", 4)
    ledger = Ledger(room=10)
    ledger.acknowledge([0, 1])
    ledger.submit(2, spec())
    with pytest.raises(BatchError, match="begin another one"):
        ledger.submit(3, spec())
    with pytest.raises(BatchError, match="before earlier ones"):
        ledger.acknowledge(range(10, 20))


def test_large_results_are_told_page_by_page(make_rollout: MakeRollout) -> None:
    ledger = Ledger(room=1000)
    for index in range(600):
        ledger.submit(index, spec())
    finished(ledger, make_rollout)
    large = make_rollout()
    zeros = {"loss_mask": np.int8, "logprobs": np.float32, "token_ids": np.int32}
    tokens = {name: np.zeros(2**20, dtype=kind) for name, kind in zeros.items()}
    for index in range(600, 604):
        ledger.submit(index, spec())
        started = ledger.start(begun=False)
        assert started is not None
        ledger.finish(index, started[1], dataclasses.replace(large, **tokens))

    told, cursor, lengths = [], 0, []
    while (page := ledger.page(cursor)).results:
        told += [index for index, _ in page.results]
        lengths.append(len(page.results))
        assert page.pending == 604 - len(told)
        cursor = page.cursor

    assert told == list(range(604))
    assert max(lengths) == 256
    assert lengths[-1] < 4


ACTIONS = st.tuples(
    st.sampled_from(["submit", "start", "finish", "acknowledge", "disown", "give_up"]),
    st.integers(0, 7),
)


@given(actions=st.lists(ACTIONS, max_size=60))
def test_no_order_of_facts_runs_an_acknowledged_row_or_loses_a_result(
    actions: list[tuple[str, int]],
) -> None:
    ledger = Ledger(room=6)
    running: dict[int, Any] = {}
    kept: set[int] = set()
    acknowledged: set[int] = set()
    for action, index in actions:
        if action == "submit":
            room = ledger.waiting + ledger.running + ledger.finished < 6
            if room or index in kept | acknowledged | running.keys():
                assert ledger.submit(index, spec(index)) is (index not in acknowledged)
        elif action == "start":
            if (started := ledger.start(begun=False)) is not None:
                assert started[0] not in {*running, *kept, *acknowledged}
                running[started[0]] = started[1]
        elif action == "finish" and index in running:
            row = running.pop(index)
            failed = failed_rollout(row.spec, FailureKind.CANCELLED, "it broke", run_id="run")
            ledger.finish(index, row, failed)
            kept.add(index)
        elif action == "acknowledge" and index in kept:
            assert ledger.acknowledge([index]) == []
            kept.discard(index)
            acknowledged.add(index)
        elif action == "disown":
            ledger.disown()
        elif action == "give_up":
            assert sorted(ledger.give_up()) == sorted(running)
            running.clear()
        assert (ledger.running, ledger.finished) == (len(running), len(kept))
        assert ledger.waiting + ledger.running + ledger.finished <= 6
    for index in kept:
        ledger.submit(index, spec(index))
    assert set(indices(ledger)) == kept
