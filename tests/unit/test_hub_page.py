"""Every command of docs/hub.md, run in order against a Hub on this machine, does what it says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.exports import run_command
from tests.hub_folders import contents, environment, finished_run, run, task_files
from tests.hub_server import WRITER, HubServer
from tests.unit.test_hub_pull import parquet

PAGE = (Path(__file__).parents[2] / "docs" / "hub.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_every_command_and_program_of_the_page_works(tmp_path: Path) -> None:
    demo = finished_run(tmp_path / "runs" / "demo")
    exported, data = tmp_path / "exports" / "demo-sft", tmp_path / "data" / "math"
    assert run_command("export", "sft", demo, "--output", exported)[0] == 0
    assert run_command("prepare", task_files(tmp_path), "--output", data)[0] == 0
    (commands,) = blocks("bash")
    (program,) = blocks("python")
    with HubServer() as hub:
        hub.add("OWNER/questions", {"train.parquet": parquet({"question": ["1 + 1?"]})})
        for command in commands.splitlines():
            code, _, errors = run(hub, tmp_path, *shlex.split(command)[1:])
            assert code == 0, (command, errors)

        assert hub.repos["OWNER/demo-rollouts"].private
        prepared = contents(data)
        del prepared["rejected.jsonl"]
        assert prepared.items() <= hub.files("OWNER/math-tasks").items()
        only = set(contents(tmp_path / "data" / "train-only"))
        assert only == {"train.jsonl", "train.parquet"}
        assert (tmp_path / "data" / "questions" / "train.jsonl").is_file()

        shows = "print([rollouts.num_rows, local.num_rows, local['reward'][0]])"
        splits = (
            "data = load_dataset('data/whole'); print({s: d.num_rows for s, d in data.items()})\n"
            "data = load_dataset('OWNER/demo-sft'); print({s: d.num_rows for s, d in data.items()})"
        )
        command = "hub pull OWNER/math-tasks --output data/whole"
        assert run(hub, tmp_path, *command.split())[0] == 0
        done = subprocess.run(
            [sys.executable, "-c", f"{program}\n{shows}\n{splits}"],
            env=environment(hub, tmp_path, WRITER),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            "[8, 8, 1.0]",
            "{'validation': 1, 'train': 2}",
            "{'train': 8}",
        ]
