"""Programs of docs/trainers.md run. Its YAML does in tests/interop/test_verl.py."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import LlamaForCausalLM

from tests.gateway.played import ADMIN_KEY, CALLS, IDLES, KEY, Played, Weights, played_service
from tests.gateway.test_trl import tiny_model

PAGE = (Path(__file__).parents[2] / "docs" / "trainers.md").read_text()
TRL, VERL = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_trl_program_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GYM_RAY_API_KEY", KEY)
    monkeypatch.setenv("GYM_RAY_ADMIN_KEY", ADMIN_KEY)
    model, tokenizer = tiny_model()
    model.save_pretrained("model")
    tokenizer.save_pretrained("model")
    played, weights = Played(rollouts=[CALLS, IDLES]), Weights()
    with played_service(played, weights) as url:
        program = TRL.replace("http://127.0.0.1:8000", url).replace("bundled:smollm2-135m", "model")

        exec(program, {})

    assert [update.version for update in weights.updates] == [1, 2]
    assert len(played.finished) == 16
    trained = LlamaForCausalLM.from_pretrained("checkpoints/step-1")
    assert not trained.lm_head.weight.equal(model.lm_head.weight)


def test_the_verl_program_writes_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    exec(VERL, {})

    (row,) = pq.read_table("tasks.parquet").to_pylist()
    assert (row["agent_name"], row["extra_info"]) == ("gym_ray", {"index": 0})
    assert "expected_answer" in row["task"]
