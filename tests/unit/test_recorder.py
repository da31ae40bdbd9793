"""Served rollouts become durable together, and the folder they are in stays theirs."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from gym_ray.config.load import RunConfig, load_config
from gym_ray.errors import ConfigError
from gym_ray.rollout import Rollout
from gym_ray.serving.recorder import Recorder, RecordTarget
from gym_ray.store.run_directory import RunDirectory
from gym_ray.store.stored_run import read_rollouts

MakeRollout = Callable[..., Rollout]


def config_of(folder: Path, **sections: object) -> RunConfig:
    return load_config({"environments": {"math": {}}, "serve": {"output": str(folder)}, **sections})


def test_rollouts_that_finish_together_share_a_file_and_are_durable_when_told(
    tmp_path: Path, make_rollout: MakeRollout
) -> None:
    async def record() -> None:
        recorder = Recorder(RecordTarget(str(tmp_path), "run"))
        await asyncio.gather(*(recorder.record(make_rollout(n)) for n in range(600)))
        assert len(read_rollouts(tmp_path)) == 600
        await recorder.record(make_rollout(600))
        assert len(read_rollouts(tmp_path)) == 601

    asyncio.run(record())
    assert len(list(tmp_path.rglob("*.parquet"))) == 3


def test_what_cannot_be_written_is_an_error_for_its_own_callers_alone(
    tmp_path: Path, make_rollout: MakeRollout
) -> None:
    folder = tmp_path / "run"
    folder.write_text("in the way")

    async def record() -> None:
        recorder = Recorder(RecordTarget(str(folder), "run"))
        with pytest.raises(OSError, match="run"):
            await recorder.record(make_rollout(0))
        folder.unlink()
        await recorder.record(make_rollout(1))

    asyncio.run(record())
    assert len(read_rollouts(folder)) == 1


def test_a_rollout_that_fits_no_file_costs_no_other_its_row(
    tmp_path: Path, make_rollout: MakeRollout
) -> None:
    async def record() -> list[BaseException | None]:
        recorder = Recorder(RecordTarget(str(tmp_path), "run"))
        unfit = make_rollout(1, metrics={"\ud800": 1.0})
        rollouts = [make_rollout(0), unfit, make_rollout(2)]
        return await asyncio.gather(*map(recorder.record, rollouts), return_exceptions=True)

    first, second, third = asyncio.run(record())

    assert (first, third) == (None, None)
    assert isinstance(second, ValueError)
    assert len(read_rollouts(tmp_path)) == 2


def test_a_later_serve_adds_to_the_folder_and_no_other_may_meanwhile(tmp_path: Path) -> None:
    config = config_of(tmp_path / "served")
    first = RunDirectory.open(config, kind="serve")
    first.save_config(config)
    with pytest.raises(ConfigError, match=r"serve\.output .* another gym-ray process"):
        RunDirectory.open(config, kind="serve")
    first.close()

    other_input = config_of(tmp_path / "served", collect={"input": "other.jsonl"})
    again = RunDirectory.open(other_input, kind="serve")

    assert (again.resumed, again.id) == (True, first.id)
    again.close()
    hotter = config_of(tmp_path / "served", sampling={"temperature": 0.5})
    with pytest.raises(ConfigError, match=r"sampling\.temperature"):
        RunDirectory.open(hotter, kind="serve")


def test_a_collection_and_a_serve_do_not_share_a_folder(tmp_path: Path) -> None:
    config = config_of(tmp_path, collect={"output": str(tmp_path)})
    served = RunDirectory.open(config, kind="serve")
    served.save_config(config)
    served.close()

    with pytest.raises(ConfigError, match="holds rollouts of `gym-ray serve`"):
        RunDirectory.open(config)
