"""The run directory: one writer, one config, and never somebody else's folder."""

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gym_ray.config.load import RunConfig, load_config
from gym_ray.errors import ConfigError
from gym_ray.rollout import Rollout
from gym_ray.store.dataset_files import dataset_files
from gym_ray.store.run_directory import RunDirectory

Open = Callable[..., RunDirectory]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return load_config(
        {"environments": {"math": {}}, "collect": {"output": str(tmp_path / "runs" / "demo")}}
    )


@pytest.fixture
def open_directory(config: RunConfig) -> Iterator[Open]:
    """Open the run directory, with overrides of the config; closed afterwards."""
    opened: list[RunDirectory] = []

    def open_with(*overrides: str) -> RunDirectory:
        opened.append(RunDirectory.open(load_config(config, overrides)))
        return opened[-1]

    yield open_with
    for directory in opened:
        directory.close()


@pytest.fixture
def begun(open_directory: Open, config: RunConfig) -> Path:
    """A run that was begun and is closed again."""
    directory = RunDirectory.open(config)
    directory.save_config(config)
    directory.close()
    return directory.path


def refusal(open_directory: Open, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        open_directory(*overrides)
    return str(caught.value)


def test_a_new_run_makes_its_folder_and_gets_an_identity(open_directory: Open) -> None:
    directory = open_directory()

    assert not directory.resumed
    assert len(directory.id) == 16
    assert directory.rollouts.is_dir()


def test_a_run_keeps_its_identity_and_facts(
    begun: Path, open_directory: Open, config: RunConfig
) -> None:
    first = open_directory()
    first.record(config, model_fingerprint="abc", ray="2.60")
    first.close()

    again = RunDirectory.open(config)
    again.close()

    assert again.resumed
    assert again.id == first.id
    assert again.run["ray"] == "2.60"


def test_a_second_process_is_refused_until_the_first_is_done(
    config: RunConfig, open_directory: Open
) -> None:
    first = RunDirectory.open(config)

    assert "another gym-ray process is writing there" in refusal(open_directory)
    first.close()

    assert open_directory().path.is_dir()


def test_a_refused_command_does_not_keep_the_lock(begun: Path, open_directory: Open) -> None:
    refusal(open_directory, "collect.num_repeats=7")

    assert open_directory().resumed


def test_a_changed_config_is_refused_with_the_keys_and_both_values(
    begun: Path, open_directory: Open
) -> None:
    message = refusal(open_directory, "collect.num_repeats=2", "policy.engine_args.reply=x")

    assert "collect.num_repeats: 1 -> 2" in message
    assert "policy.engine_args" in message
    assert "name a new collect.output" in message


def test_tuning_may_change_between_two_starts(begun: Path, open_directory: Open) -> None:
    assert open_directory("collect.max_in_flight=3", "verification.processes=1").resumed


def test_other_weights_under_the_same_name_are_refused(
    begun: Path, open_directory: Open, config: RunConfig
) -> None:
    directory = open_directory()
    directory.record(config, model_fingerprint="abc")

    with pytest.raises(ConfigError, match="fingerprint abc, now abd"):
        directory.record(config, model_fingerprint="abd")


def test_a_strange_folder_is_refused(config: RunConfig, open_directory: Open) -> None:
    folder = Path(config.collect.output)
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("…")

    assert "the folder is not empty (thesis.tex, …)" in refusal(open_directory)
    assert (folder / "thesis.tex").read_text() == "…"


@pytest.mark.parametrize("text", ["", "- a", "policy: {}", "run: 5"])
def test_a_run_yaml_of_something_else_is_refused(
    config: RunConfig, open_directory: Open, text: str
) -> None:
    folder = Path(config.collect.output)
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(text)

    assert "run.yaml is not of a gym-ray run" in refusal(open_directory)


def test_a_command_that_failed_before_it_began_does_not_block_the_corrected_one(
    open_directory: Open,
) -> None:
    first = open_directory("collect.input=misspelt.jsonl")
    first.manifest.write_text("of a command with another config, killed just now")
    first.close()

    again = open_directory()

    assert not again.resumed
    assert not again.manifest.exists()


def test_of_a_run_that_never_began_nothing_is_left(
    config: RunConfig, open_directory: Open, tmp_path: Path
) -> None:
    output = Path(config.collect.output)
    open_directory().close()
    assert not output.parent.exists()

    output.mkdir(parents=True)
    open_directory().close()
    assert list(output.iterdir()) == []

    (output / "thesis.tex").write_text("…")
    refusal(open_directory)
    assert [entry.name for entry in output.iterdir()] == ["thesis.tex"]


def test_of_a_run_that_began_everything_is_left(config: RunConfig, open_directory: Open) -> None:
    first = open_directory()
    first.save_config(config)
    first.close()
    open_directory().close()

    assert open_directory().resumed


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("/proc/runs/demo", "cannot be written"),
        ("{file}", "cannot be written: File exists"),
        ("{file}/demo", "cannot be written: Not a directory"),
        ("hf://datasets/me/demo", "`gym-ray hub push` it"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(
    tmp_path: Path, open_directory: Open, output: str, says: str
) -> None:
    file = tmp_path / "file"
    file.touch()

    message = refusal(open_directory, f"collect.output={output.format(file=file)}")

    assert message.startswith("collect.output")
    assert says in message


def test_what_killed_writers_left_is_removed_and_never_counted(
    begun: Path, open_directory: Open, make_rollout: Callable[..., Rollout]
) -> None:
    first = open_directory()
    first.segments.write("block", [make_rollout()])
    half = first.path / "segments" / "block" / "x.parquet.1234.unfinished"
    half.write_bytes(b"PAR1")
    first.close()

    assert len(dataset_files(first.path)) == 1
    again = open_directory()

    assert not half.exists()
    assert again.segments.durable("block") == {make_rollout().spec.rollout_id}


def test_an_unfinished_export_into_the_directory_is_left_alone(
    begun: Path, open_directory: Open
) -> None:
    part = begun / "rl.unfinished" / "train-00000.parquet.1234.unfinished"
    part.parent.mkdir()
    part.write_bytes(b"PAR1")

    assert open_directory().resumed

    assert part.exists()


def test_a_file_system_without_locks_is_told_from_a_run_in_use(
    open_directory: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)

    assert "cannot be written: No locks available" in refusal(open_directory)


def test_run_yaml_holds_the_resolved_config(begun: Path) -> None:
    import yaml

    saved: dict[str, Any] = yaml.safe_load((begun / "run.yaml").read_text())

    assert saved["collect"]["max_attempts"] == 3
    assert json.dumps(saved["run"])
    assert "base_directory" not in saved
