"""Admission: its invariants over any order of events, and that it never waits for nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_ray.collection.admission import CALL_ROLLOUTS, SEGMENT_ROWS, Admission

#: What happens next: `start` a call from queue n, `finish` some, of which a share retries, `write`.
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["start", "finish", "write"]),
        st.integers(0, 2),
        st.floats(0, 1),
        st.floats(0, 1),
    ),
    max_size=80,
)


class Run:
    """A run as a stage drives it: queues by environment, rollouts running and unwritten."""

    def __init__(self, max_in_flight: int, queues: list[int]) -> None:
        self.admission = Admission(max_in_flight)
        self.queues = list(queues)

    def start(self, queue: int) -> int:
        waiting = self.queues[queue]
        count = self.admission.startable(waiting)
        self.require_a_full_call(waiting, count)
        self.admission.started(count)
        self.queues[queue] -= count
        self.require_bounds()
        return count

    def finish(self, share: float, retried_share: float) -> None:
        count = round(self.admission.running * share)
        retried = round(count * retried_share)
        self.admission.finished(count, to_write=count - retried)
        self.queues[0] += retried
        self.require_bounds()

    def write(self, share: float) -> None:
        self.admission.written(round(self.admission.unwritten * share))
        self.require_bounds()

    def require_bounds(self) -> None:
        admission = self.admission
        assert 0 <= admission.running <= admission.max_in_flight
        held = admission.running + admission.unwritten
        assert held <= admission.max_in_flight + admission.headroom

    def require_a_full_call(self, waiting: int, count: int) -> None:
        assert count in (0, min(waiting, self.admission.call_rollouts))


@settings(max_examples=40)
@given(st.integers(1, 2000), st.lists(st.integers(0, 300), min_size=3, max_size=3), EVENTS)
def test_bounds_hold_whatever_happens_and_the_run_always_comes_to_an_end(
    max_in_flight: int, queues: list[int], events: list[tuple[str, int, float, float]]
) -> None:
    run = Run(max_in_flight, queues)
    for kind, queue, share, retried_share in events:
        if kind == "start":
            run.start(queue)
        elif kind == "finish":
            run.finish(share, retried_share)
        else:
            run.write(share)

    while any(run.queues) or run.admission.running or run.admission.unwritten:
        run.finish(1, 0)
        run.write(1)
        # Nothing runs and everything is written: whatever waits must be able to start.
        for queue, waiting in enumerate(run.queues):
            started = run.start(queue)
            assert started or not waiting or run.admission.running
        assert not any(run.queues) or run.admission.running


@pytest.mark.parametrize("max_in_flight", [1, 2, 3, 4, 8, 16, 64, 512, 4096])
def test_a_full_load_keeps_every_place_busy(max_in_flight: int) -> None:
    admission = Admission(max_in_flight)

    while count := admission.startable(10_000):
        admission.started(count)

    assert admission.running > max_in_flight - admission.call_rollouts
    assert 1 <= admission.call_rollouts <= CALL_ROLLOUTS
    assert SEGMENT_ROWS[0] <= admission.segment_rows <= SEGMENT_ROWS[1]


def test_unwritten_rollouts_hold_back_new_ones() -> None:
    admission = Admission(8)
    while count := admission.startable(100):
        admission.started(count)
    admission.finished(8, to_write=8)
    while count := admission.startable(100):
        admission.started(count)

    assert admission.running + admission.unwritten == admission.max_in_flight + admission.headroom

    admission.written(8)

    assert admission.startable(100) > 0


def test_a_kill_at_eight_in_flight_costs_at_most_twelve_rollouts() -> None:
    admission = Admission(8)

    assert admission.max_in_flight + admission.headroom <= 12


def test_nothing_starts_once_closed_or_with_nothing_waiting() -> None:
    admission = Admission(8)

    assert admission.startable(0) == 0
    admission.closed = True
    assert admission.startable(8) == 0
