"""Admission: its invariants over any order of events, and that it never waits for nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gym_ray.serving.admission import CALL_ROLLOUTS, SEGMENT_ROWS, Admission
from gym_ray.serving.queues import Queues

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


ENVIRONMENTS = ("first", "second", "third")


class Run:
    """A run as a stage drives it: queues by environment, rollouts running and unwritten."""

    def __init__(self, max_in_flight: int, queues: list[int], quotas: dict[str, int]) -> None:
        self.admission = Admission(max_in_flight, quotas)
        self.queues = dict(zip(ENVIRONMENTS, queues, strict=True))
        self.running = dict.fromkeys(ENVIRONMENTS, 0)
        self.quotas = quotas

    def start(self, longest: int = 0) -> int:
        """Start a call when one may; the queue of this number waits longest."""
        order = [*ENVIRONMENTS[longest:], *ENVIRONMENTS[:longest]]
        call = self.admission.next_call([(name, self.queues[name]) for name in order])
        if call is None:
            return 0
        name, count = call
        assert 0 < count <= min(self.queues[name], self.admission.call_rollouts)
        self.admission.started(name, count)
        self.queues[name] -= count
        self.running[name] += count
        self.require_bounds()
        return count

    def finish(self, share: float, retried_share: float) -> None:
        for name, running in self.running.items():
            count = round(running * share)
            retried = round(count * retried_share)
            self.admission.finished(name, count, to_write=count - retried)
            self.running[name] -= count
            self.queues[name] += retried
        self.require_bounds()

    def write(self, share: float) -> None:
        self.admission.written(round(self.admission.unwritten * share))
        self.require_bounds()

    def require_bounds(self) -> None:
        admission = self.admission
        assert 0 <= admission.running <= admission.max_in_flight
        held = admission.running + admission.unwritten
        assert held <= admission.max_in_flight + admission.headroom
        assert all(self.running[name] <= quota for name, quota in self.quotas.items())


@settings(max_examples=60)
@given(
    st.integers(1, 2000),
    st.lists(st.integers(0, 300), min_size=3, max_size=3),
    st.dictionaries(st.sampled_from(ENVIRONMENTS), st.integers(1, 100)),
    EVENTS,
)
def test_bounds_hold_whatever_happens_and_the_run_always_comes_to_an_end(
    max_in_flight: int,
    queues: list[int],
    quotas: dict[str, int],
    events: list[tuple[str, int, float, float]],
) -> None:
    run = Run(max_in_flight, queues, quotas)
    for kind, queue, share, retried_share in events:
        if kind == "start":
            run.start(queue)
        elif kind == "finish":
            run.finish(share, retried_share)
        else:
            run.write(share)

    while any(run.queues.values()) or run.admission.running or run.admission.unwritten:
        run.finish(1, 0)
        run.write(1)
        # Nothing runs and everything is written: whatever waits must be able to start.
        assert run.start() or not any(run.queues.values())
        while run.start():
            pass


def fill(admission: Admission, *waiting: tuple[str, int]) -> dict[str, int]:
    """Start what may start, the first environment always waiting longest; how many of each."""
    running = dict.fromkeys((name for name, _ in waiting), 0)
    while call := admission.next_call(waiting):
        admission.started(*call)
        running[call[0]] += call[1]
    return running


@pytest.mark.parametrize("max_in_flight", [1, 2, 3, 4, 8, 16, 64, 512, 4096])
def test_a_full_load_keeps_every_place_busy(max_in_flight: int) -> None:
    admission = Admission(max_in_flight)

    fill(admission, ("only", 10_000))

    assert admission.running > max_in_flight - admission.call_rollouts
    assert 1 <= admission.call_rollouts <= CALL_ROLLOUTS
    assert SEGMENT_ROWS[0] <= admission.segment_rows <= SEGMENT_ROWS[1]


def test_unwritten_rollouts_hold_back_new_ones() -> None:
    admission = Admission(8)
    fill(admission, ("only", 100))
    admission.finished("only", 8, to_write=8)
    fill(admission, ("only", 100))

    assert admission.running + admission.unwritten == admission.max_in_flight + admission.headroom

    admission.written(8)

    assert admission.next_call([("only", 100)])


def test_a_kill_at_eight_in_flight_costs_at_most_twelve_rollouts() -> None:
    admission = Admission(8)

    assert admission.max_in_flight + admission.headroom <= 12


def test_nothing_starts_once_closed_or_with_nothing_waiting() -> None:
    admission = Admission(8)

    assert admission.next_call([("only", 0)]) is None
    admission.closed = True
    assert admission.next_call([("only", 8)]) is None


def test_an_environment_at_its_quota_leaves_the_other_places_to_the_others() -> None:
    admission = Admission(512, {"slow": 10})

    assert fill(admission, ("slow", 1000), ("quick", 1000)) == {"slow": 10, "quick": 496}


def test_what_waits_longest_is_not_overtaken_by_what_needs_less_room() -> None:
    admission = Admission(64)
    admission.started("first", 56)

    assert admission.next_call([("first", 100), ("second", 3)]) is None
    assert admission.next_call([("second", 3), ("first", 100)]) == ("second", 3)


def test_queues_name_the_environment_first_whose_rollout_has_waited_longest() -> None:
    queues: Queues[int] = Queues()
    for number, environment in enumerate(["first", "second", "first", "third"]):
        queues.add(environment, number)

    assert queues.lengths() == [("first", 2), ("second", 1), ("third", 1)]
    assert queues.take("first", 1) == [0]
    assert queues.lengths() == [("second", 1), ("first", 1), ("third", 1)]
    assert queues.take("second", 1) == [1]
    assert queues.lengths() == [("first", 1), ("third", 1), ("second", 0)]
