"""The simulation against what can be computed by hand."""

import json
from pathlib import Path

import pytest

from scripts.sim import predict
from scripts.sim.fleet import Fleet, Measured, simulate


def fixed(turn: float = 2.0, turns: int = 1, outside: float = 0.0) -> Measured:
    return Measured([turn], [turns], [outside])


def test_one_replica_is_limited_by_its_slots() -> None:
    # 400 turns of 2 s in 8 slots: 50 rounds.
    outcome = simulate(fixed(), Fleet(replicas=1, slots=8, in_flight=64), 400)

    assert outcome.seconds == pytest.approx(100)
    assert outcome.rollouts_per_second == pytest.approx(4)
    assert outcome.busy_share == pytest.approx(1)


def test_few_rollouts_in_flight_are_the_limit_before_slots_are() -> None:
    # 4 places, each rollout takes 3 turns of 2 s and 2 s outside.
    outcome = simulate(fixed(turns=3, outside=2.0), Fleet(replicas=4, slots=8, in_flight=4), 40)

    assert outcome.seconds == pytest.approx(10 * 8)
    assert outcome.busy_share == pytest.approx(40 * 6 / (4 * 8 * 80))


@pytest.mark.parametrize("replicas", [2, 8])
def test_replicas_add_up_while_there_are_enough_rollouts(replicas: int) -> None:
    one = simulate(fixed(), Fleet(1, 8, 32), 800)
    many = simulate(fixed(), Fleet(replicas, 8, 32 * replicas), 800 * replicas)

    # Two choices at random leave slots empty now and then.
    ratio = many.steady_rollouts_per_second / one.steady_rollouts_per_second
    assert 0.9 * replicas < ratio <= replicas


def test_a_straggler_holds_the_fleet_unless_idle_replicas_are_released() -> None:
    measured = Measured([1.0] * 99 + [200.0], [1], [0.0])
    fleet = {"replicas": 10, "slots": 2, "in_flight": 40}

    held = simulate(measured, Fleet(**fleet), 400)
    released = simulate(measured, Fleet(**fleet, release_seconds=5.0), 400)

    assert held.tail_seconds > 100
    assert released.seconds == held.seconds
    assert released.replica_hours < 0.6 * held.replica_hours
    assert released.busy_share > held.busy_share


def test_the_same_seed_is_the_same_run() -> None:
    measured = Measured([0.1, 0.5, 3.0], [1, 2], [0.1, 0.3])
    fleet = Fleet(3, 4, 24)

    assert simulate(measured, fleet, 200, seed=1) == simulate(measured, fleet, 200, seed=1)
    assert simulate(measured, fleet, 200, seed=1) != simulate(measured, fleet, 200, seed=2)


def test_replicas_that_start_late_are_paid_for() -> None:
    fleet = Fleet(2, 8, 64, start_seconds=50.0)

    outcome = simulate(fixed(), fleet, 400)

    assert outcome.replica_hours * 3600 == pytest.approx(2 * outcome.seconds)


def test_the_prediction_is_a_table_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {"turn_seconds": [0.5, 1.0, 1.5], "turns": [1, 2], "outside_seconds": [0.01, 0.05]}
    runs = [{"replicas": 1, "measured_rollouts_per_second": 2.6}]
    file, picture = tmp_path / "measured.json", tmp_path / "scaling.svg"
    file.write_text(json.dumps({"slots": 4, "measured": measured, "runs": runs}))
    monkeypatch.setattr(predict, "JOB_ROLLOUTS", 400)
    monkeypatch.setattr(
        "sys.argv", ["predict.py", str(file), "--plot", str(picture), "--replicas", "1", "4"]
    )

    predict.main()

    header, _, one, four = capsys.readouterr().out.splitlines()
    assert "400 rollouts take" in header
    assert one.startswith("| 1 |")
    assert four.startswith("| 4 |")
    assert "</svg>" in picture.read_text()
