"""Progress, the monitor behind it, and when to stop."""

import os
import signal
import threading
import time
from typing import Any

import pytest

from gym_ray.collection.monitor import Monitor
from gym_ray.collection.stop import StopSignal
from gym_ray.errors import Interrupted
from gym_ray.telemetry.progress import Counts, Progress, describe, duration


def test_the_line_says_everything_there_is_to_say() -> None:
    counts = Counts(
        running=8, finished=18, failed=2, retried=3, rewarded=18, reward_sum=9.0,
        sampled_tokens=5000,
    )  # fmt: skip

    assert describe(counts, before=10, expected=130, seconds=20) == (
        "30/130 rollouts · 2 failed · 8 in flight · 3 retried · 250 tokens/s · "
        "mean reward 0.500 (coverage 18/20) · 1 min 40 s left"
    )


def test_tokens_of_rollouts_in_flight_count_for_the_rate_and_the_time_left() -> None:
    counts = Counts(running=10, finished=10, sampled_tokens=1000, tokens_so_far=1500)

    line = describe(counts, before=0, expected=30, seconds=15)

    # 1500 tokens are 15 rollouts' worth in 15 s; 15 more are to come.
    assert "100 tokens/s" in line
    assert line.endswith("15 s left")


def test_the_line_of_a_start_and_of_an_end_say_no_more_than_is_known() -> None:
    start = describe(Counts(running=4), before=0, expected=8, seconds=0)
    end = describe(Counts(finished=8), before=0, expected=8, seconds=2)

    assert start == "0/8 rollouts · 0 failed · 4 in flight"
    assert "left" not in end


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7630, "2 h 7 min")],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_lines_are_plain_and_rare(capsys: Any) -> None:
    with Progress() as progress:
        progress.say("reading [tasks] from tasks.jsonl")
        for finished in range(50):
            progress.show(Counts(finished=finished), before=0, expected=50)

    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[0] == "reading [tasks] from tasks.jsonl"
    assert len(output.err.splitlines()) == 2
    assert "\x1b" not in output.err


def test_quiet_means_silent(capsys: Any) -> None:
    with Progress(quiet=True) as progress:
        progress.say("anything")
        progress.show(Counts(), before=0, expected=1)

    assert capsys.readouterr().err == ""


def test_the_monitor_adds_up_the_stages_latest_counts_and_passes_the_order_on() -> None:
    monitor = Monitor()

    assert (monitor.started(), monitor.started()) == (1, 2)
    assert monitor.report("a", Counts(finished=1, running=5), obeyed="run") == "run"
    monitor.set_order("drain")
    assert monitor.report("a", Counts(finished=3, reward_sum=0.5), obeyed="run") == "drain"
    monitor.report("b", Counts(finished=4, reward_sum=1.0), obeyed="drain")

    assert monitor.total() == Counts(finished=7, reward_sum=1.5)


def test_stages_are_drained_once_all_have_heard_of_it_and_have_nothing_left() -> None:
    monitor = Monitor()
    monitor.set_order("drain")
    monitor.report("a", Counts(), obeyed="run")
    assert not monitor.drained(), "it may have started something before it heard"
    monitor.report("a", Counts(running=1), obeyed="drain")
    assert not monitor.drained()
    monitor.report("a", Counts(unwritten=1), obeyed="drain")
    assert not monitor.drained()
    monitor.report("a", Counts(), obeyed="drain")
    assert monitor.drained()


def test_the_first_signal_asks_to_drain_and_the_second_is_urgent() -> None:
    said: list[str] = []
    stop = StopSignal(deadline=None, say=said.append)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    with stop.installed():
        assert not stop.requested()
        stop.raise_if_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested()
        assert (stop.reason, stop.urgent()) == ("signal", False)
        with pytest.raises(Interrupted, match="stopped while starting up"):
            stop.raise_if_requested()
        (told,) = said  # At once, not when Ray lets go.
        assert told.startswith("stopping")
        with stop.told_by_others():
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.urgent()
        assert len(said) == 1

    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_deadline_asks_to_drain_by_itself() -> None:
    assert not StopSignal(deadline=time.monotonic() + 60, say=print).requested()

    stop = StopSignal(deadline=time.monotonic(), say=print)

    assert stop.requested()
    assert stop.reason == "run_timeout"
    assert not stop.urgent()


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def elsewhere() -> None:
        stop = StopSignal(deadline=None, say=print)
        with stop.installed():
            stop.take_over()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()

    assert seen == [before]
