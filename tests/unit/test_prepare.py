"""`prepare`: where rows go, how often and in which order, prompts, metrics, and its folder."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from gym_ray.config.load import load_config
from gym_ray.errors import ConfigError
from gym_ray.prepare import TaskFile, prepare
from gym_ray.prepare.prepare_report import render
from gym_ray.prepare.task_files import named
from gym_ray.task import task_id_of

Row = dict[str, Any]


def math_row(question: str, **fields: Any) -> Row:
    return {"responses_create_params": {"input": question}, "expected_answer": "2", **fields}


def mcqa_row(question: str) -> Row:
    return {
        "responses_create_params": {"input": question},
        "options": [{"A": "2"}, {"B": "3"}],
        "expected_answer": "A",
    }


class Desk:
    """A folder with a config of two environments, and what `prepare` makes of files in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out"

    def file(self, name: str, rows: list[Row]) -> str:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def config(self, **datasets: list[dict[str, Any]]) -> Path:
        environments = {name: {"datasets": datasets.get(name, [])} for name in ("math", "mcqa")}
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump({"environments": environments}))
        return path

    def prepare(self, *files: TaskFile, **options: Any) -> Any:
        config = options.pop("config", None) or self.config()
        return prepare(config, self.output, task_files=files, quiet=True, **options)

    def rows(self, split: str) -> list[Row]:
        return [json.loads(line) for line in (self.output / f"{split}.jsonl").open()]

    def questions(self, split: str) -> list[str]:
        return [row["responses_create_params"]["input"] for row in self.rows(split)]

    def metrics(self, split: str) -> Any:
        return json.loads((self.output / f"{split}_metrics.json").read_text())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


MATH = "math"


def test_declared_datasets_are_read_and_rows_get_their_environment(desk: Desk) -> None:
    common = {"license": "MIT", "type": "train"}
    config = desk.config(
        math=[
            {**common, "name": "sums", "path": desk.file("a.jsonl", [math_row("1+1?")])},
            {"name": "ex", "type": "example", "path": desk.file("b.jsonl", [math_row("0+2?")])},
        ],
        mcqa=[
            {**common, "name": "quiz", "path": desk.file("c.jsonl", [mcqa_row("1+1?")])},
            {**common, "name": "held", "type": "validation",
             "path": desk.file("d.jsonl", [mcqa_row("2+0?")])},
        ],
    )  # fmt: skip
    report = desk.prepare(config=config)

    assert report.written == {"train": 2, "validation": 1}
    agents = [row["agent_ref"]["name"] for row in desk.rows("train")]
    assert agents == ["math", "mcqa"]
    saved = json.loads((desk.output / "report.json").read_text())
    assert [(file["name"], file["license"]) for file in saved["task_files"]] == [
        ("held", "MIT"), ("sums", "MIT"), ("quiz", "MIT"),
    ]  # fmt: skip

    desk.prepare(config=config, splits=("example",))
    assert desk.questions("example") == ["0+2?"]
    assert not (desk.output / "train.jsonl").exists()


def test_training_data_needs_a_license_that_is_known() -> None:
    def load(**dataset: Any) -> Any:
        section = {"datasets": [{"name": "a", "path": "a.jsonl", **dataset}]}
        return load_config({"environments": {"math": section}})

    assert load(type="example").environments["math"].datasets[0].license is None
    with pytest.raises(ConfigError, match=r"needs a license, one of: Apache 2.0; MIT"):
        load(type="train")
    with pytest.raises(ConfigError, match=r"datasets\.0\.license"):
        load(type="train", license="WTFPL")
    with pytest.raises(ConfigError, match=r"unknown key .*; did you mean 'weight'"):
        load(type="example", wieght=2)


def test_the_validation_share_is_a_hash_of_the_content(desk: Desk) -> None:
    rows = [math_row(f"{number}?") for number in range(1000)]
    first = desk.file("a.jsonl", rows)
    desk.prepare(TaskFile("train", first, MATH), validation_share=0.1)
    held = desk.questions("validation")
    assert 60 < len(held) < 140
    assert set(held).isdisjoint(desk.questions("train"))
    assert len(held) + len(desk.questions("train")) == 1000

    # Other rows, another order, another place, twice: nothing moves to the other side.
    more = [math_row(f"more {number}?") for number in range(500)]
    second = desk.file("b.jsonl", [*more, *reversed(rows), *rows])
    desk.prepare(TaskFile("train", second, MATH), validation_share=0.1)
    assert {q for q in desk.questions("validation") if "more" not in q} == set(held)
    for row in desk.rows("validation"):
        assert int(task_id_of(row)[:13], 16) / 16**13 < 0.1


def test_only_the_first_of_rows_with_the_same_content_is_kept(desk: Desk) -> None:
    train = [math_row("a"), math_row("b"), math_row("a", _ng_task_index=7), math_row("c")]
    reordered = dict(reversed(math_row("b").items()))
    files = [
        TaskFile("train", desk.file("a.jsonl", train), MATH, name="train"),
        TaskFile("train", desk.file("b.jsonl", [reordered, math_row("d")]), MATH, name="more"),
        TaskFile("validation", desk.file("c.jsonl", [math_row("c")]), MATH, name="held"),
    ]
    report = desk.prepare(*files, deduplicate=True)

    assert sorted(desk.questions("train")) == ["a", "b", "d"]
    assert desk.questions("validation") == ["c"]  # validation's, so that it is not trained on
    counts = {file.task_file.name: file.duplicates for file in report.task_files}
    assert counts == {"held": 0, "train": 2, "more": 1}

    report = desk.prepare(*files)
    assert report.written == {"train": 6, "validation": 1}


def test_weights_repeat_rows_and_blend_environments_evenly(desk: Desk) -> None:
    sums = desk.file("a.jsonl", [math_row(f"sum {number}") for number in range(300)])
    quiz = desk.file("b.jsonl", [mcqa_row(f"quiz {number}") for number in range(200)])
    files = [TaskFile("train", sums, "math", weight=2), TaskFile("train", quiz, "mcqa", weight=0.5)]
    desk.prepare(*files)
    first = (desk.output / "train.jsonl").read_bytes()
    questions = desk.questions("train")
    times = Counter(questions)

    assert [times[f"sum {number}"] for number in range(300)] == [2] * 300
    chosen = sum(times[f"quiz {number}"] for number in range(200))
    assert 70 < chosen < 130
    assert max(times[f"quiz {number}"] for number in range(200)) == 1
    share = chosen / len(questions)
    for start in range(0, len(questions) - 100, 50):
        here = sum(q.startswith("quiz") for q in questions[start : start + 100])
        assert abs(here - 100 * share) <= 2
    # Copies of a row stand an epoch apart.
    assert questions.index("sum 0", 1) - questions.index("sum 0") >= 300

    desk.prepare(*files)
    assert (desk.output / "train.jsonl").read_bytes() == first


def test_prompt_templates_make_the_input_of_raw_rows(desk: Desk) -> None:
    template = desk.folder / "prompt.yaml"
    template.write_text("system: Be brief.\nuser: |-\n  {question} ({meta.topic}) in \\boxed{{}}\n")
    raw = '{"question": "1+1?",  "expected_answer": 2.0, "meta": {"topic": "sums"}}\n'
    told = (
        '{"question": "2?", "meta": {"topic": 1}, "expected_answer": "2", '
        '"responses_create_params": {"temperature": 0.5}}\n'
    )
    path = desk.folder / "raw.jsonl"
    path.write_text(raw + told + json.dumps(math_row("?")) + '\n{"qestion": "?"}\n')
    report = desk.prepare(
        TaskFile("train", str(path), MATH), prompt=str(template), on_invalid="drop"
    )

    lines = (desk.output / "train.jsonl").read_text().splitlines()
    assert lines[0] == (
        raw[:-2] + ', "responses_create_params": {"input": [{"role": "system", "content": '
        '"Be brief."}, {"role": "user", "content": "1+1? (sums) in \\\\boxed{{}}"}]}, '
        '"agent_ref": {"type": "responses_api_agents", "name": "math"}}'
    )
    params = json.loads(lines[1])["responses_create_params"]
    assert params["temperature"] == 0.5
    assert params["input"][1]["content"] == "2? (1) in \\boxed{{}}"
    fields = [(entry.line, entry.field) for entry in report.rejections]
    assert fields == [(3, "responses_create_params.input"), (4, "question")]

    template.write_text("usr: hello")
    with pytest.raises(ConfigError, match=r"prompt .*: usr: Extra inputs"):
        desk.prepare(TaskFile("train", str(path), MATH, prompt=str(template)))


def test_metrics_have_the_values_nemo_gym_computes(desk: Desk) -> None:
    # Five rows of 21, 30, 26, 24 and 25 words: what string_match's example_metrics.json is of.
    rows = []
    for index, words in enumerate((21, 30, 26, 24, 25)):
        row = math_row(" ".join(["word"] * (words - 1)), correct=index == 0, tags=["x", "y"])
        rows.append(row)
    desk.prepare(TaskFile("train", desk.file("a.jsonl", rows), MATH), tokenizer="bytes")
    metrics = desk.metrics("train")

    assert metrics["Number of examples"] == 5
    assert metrics["Json-dumped number of words (proxy for token count)"] == {
        "Total # non-null values": 5, "Average": 25.2, "Min": 21.0, "Max": 30.0,
        "Standard deviation": 3.27,
    }  # fmt: skip
    assert metrics["Number of turns"]["Average"] == 1.0
    assert metrics["Number of tools"]["Total # non-null values"] == 0
    assert metrics["correct"]["Average"] == 0.2
    assert metrics["correct"]["Standard deviation"] == 0.447
    assert metrics["tags"] == {"unique_count": 2, "total_count": 10}
    assert metrics["expected_answer"] == {"unique_count": 1, "total_count": 5}
    tokens = metrics["Input tokens"]
    assert (tokens["tokenizer"], tokens["Could not be rendered"]) == ("bytes", 0)
    # ChatML around n - 1 words of four bytes with spaces between, one token a byte.
    around = tokens["Min"] - (20 * 5 - 1)
    assert tokens["p50"] == 24 * 5 - 1 + around
    assert tokens["p90"] == tokens["p99"] == tokens["Max"] == 29 * 5 - 1 + around


def test_rows_without_an_environment_of_their_own_are_routed_or_rejected(desk: Desk) -> None:
    path = desk.file("a.jsonl", [math_row("a", agent_ref="math"), math_row("b")])
    report = desk.prepare(TaskFile("train", path), on_invalid="drop")

    assert [row["agent_ref"]["name"] for row in desk.rows("train")] == ["math"]
    assert (report.rejections[0].line, report.rejections[0].field) == (2, "agent_ref")
    table = pq.read_table(desk.output / "train.parquet")
    assert table["environment"].to_pylist() == ["math"]
    assert table["task_id"].to_pylist() == [task_id_of(desk.rows("train")[0])]


def test_named_files_may_say_whose_they_are(desk: Desk) -> None:
    config = load_config(desk.config())
    files = named("train", ["math=a.jsonl", "b=c.jsonl"], config)
    assert [(file.environment, file.path) for file in files] == [
        ("math", "a.jsonl"), (None, "b=c.jsonl"),
    ]  # fmt: skip


def test_an_authors_check_that_breaks_is_a_rejection(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gym_ray.environments.math import MathEnvironment

    def breaks(self: MathEnvironment, row: Row) -> None:
        raise KeyError("answer_key")

    monkeypatch.setattr(MathEnvironment, "check_task", breaks)
    report = desk.prepare(TaskFile("train", desk.file("a.jsonl", [math_row("a")]), MATH))
    assert "cannot be checked by environment math: KeyError" in report.rejections[0].reason


def test_reasons_that_quote_what_is_no_text_can_be_written_down(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gym_ray.environments.math import MathEnvironment
    from gym_ray.task import invalid

    def refuses(self: MathEnvironment, row: Row) -> None:
        raise invalid(f"field 'note' is {row['note']}")

    monkeypatch.setattr(MathEnvironment, "check_task", refuses)
    rows = [math_row("a", note="\ud800")]
    report = desk.prepare(TaskFile("train", desk.file("a.jsonl", rows), MATH))
    assert report.rejections[0].reason == "field 'note' is \\ud800"
    assert "ud800" in (desk.output / "report.json").read_text()


def refusals() -> list[tuple[Callable[[Desk, str], Any], str]]:
    return [
        (lambda desk, path: desk.prepare(), "declares no datasets of type train or validation"),
        (lambda desk, path: desk.prepare(TaskFile("train", "none.jsonl", MATH, key="--train")),
         "--train 'none.jsonl': no such file"),
        (lambda desk, path: desk.prepare(TaskFile("train", path, "maths")), "configured: math"),
        (lambda desk, path: desk.prepare(TaskFile("train", path, MATH), validation_share=1),
         "from 0 to below 1"),
        (lambda desk, path: prepare(desk.config(), "s3://bucket/out"), "only a local"),
        (lambda desk, path: desk.prepare(TaskFile("train", path, MATH), tokenizer="./none"),
         "is not a directory"),
        (lambda desk, path: prepare(desk.config(), desk.folder, quiet=True,
                                    task_files=[TaskFile("train", path, MATH)]),
         "holds files that `prepare` did not write"),
    ]  # fmt: skip


@pytest.mark.parametrize(("attempt", "says"), refusals())
def test_what_cannot_be_done_is_refused_and_changes_nothing(
    desk: Desk, attempt: Callable[[Desk, str], Any], says: str
) -> None:
    path = desk.file("a.jsonl", [math_row("a")])
    desk.prepare(TaskFile("train", path, MATH))
    before = (desk.output / "report.json").read_bytes()

    with pytest.raises(ConfigError, match=says):
        attempt(desk, path)

    assert (desk.output / "report.json").read_bytes() == before
    assert Path(path).exists()


def test_what_is_read_is_never_overwritten(desk: Desk) -> None:
    path = desk.file("a.jsonl", [math_row("a")])
    desk.prepare(TaskFile("train", path, MATH))
    own = str(desk.output / "train.jsonl")
    with pytest.raises(ConfigError, match=r"is where .* is read from"):
        desk.prepare(TaskFile("train", own, MATH))
    assert desk.questions("train") == ["a"]


def test_generated_rows_can_be_prepared(desk: Desk) -> None:
    config = desk.folder / "generated.yaml"
    params = {"families": ["leg_counting"], "size": 3}
    section = {"params": params, "datasets": [
        {"name": "legs", "type": "example", "path": "env:reasoning_gym"}]}  # fmt: skip
    config.write_text(yaml.safe_dump({"environments": {"reasoning_gym": section}}))
    report = desk.prepare(config=config, splits=("example",))
    assert report.written == {"example": report.read}
    assert report.read >= 3


def test_tasks_to_train_on_and_to_validate_with_are_counted(desk: Desk) -> None:
    train = [math_row(f"{number % 6}") for number in range(12)]
    held = [math_row(f"{number}") for number in (1, 1, 4, 9)]
    files = [
        TaskFile("train", desk.file("train.jsonl", train), MATH),
        TaskFile("validation", desk.file("held.jsonl", held), MATH),
    ]

    report = desk.prepare(*files)

    assert report.overlap == 2
    assert "2 tasks are to train on and to validate with; --deduplicate" in render(report)
    assert json.loads((desk.output / "report.json").read_text())["overlap"] == 2
    assert desk.prepare(*files, deduplicate=True).overlap == 0
    assert desk.prepare(files[0]).overlap == 0
