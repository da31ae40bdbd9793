"""verl's own dataset and agent-loop worker, with our loop in them; what they make of it as JSON.

Run by `test_verl.py` in the environment of `scripts/verl.sh`:

    python verl_program.py MODEL TASKS.parquet LOOPS.yaml ROLLOUTS-OF-EACH
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import hydra
import verl
from omegaconf import DictConfig
from transformers import AutoTokenizer
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn


def config_of(model: str, loops: str) -> DictConfig:
    """verl's default config of PPO and GRPO, with the lines of docs/trainers.md."""
    folder = Path(verl.__file__).parent / "trainer" / "config"
    with hydra.initialize_config_dir(str(folder), version_base=None):
        return hydra.compose(
            "ppo_trainer",
            [
                f"actor_rollout_ref.model.path={model}",
                f"actor_rollout_ref.rollout.agent.agent_loop_config_path={loops}",
                "actor_rollout_ref.rollout.name=vllm",
                "actor_rollout_ref.rollout.calculate_log_probs=true",
                "actor_rollout_ref.rollout.temperature=0.7",
                "data.max_prompt_length=4096",
                "data.max_response_length=400",
                "data.filter_overlong_prompts=false",
            ],
        )


def main(model: str, tasks: str, loops: str, repeats: str) -> None:
    config = config_of(model, loops)
    dataset = RLHFDataset(tasks, AutoTokenizer.from_pretrained(model), config.data)
    rows = DataProto.from_single_dict(collate_fn([dataset[n] for n in range(len(dataset))]))
    worker = AgentLoopWorker(config, llm_client=None)
    rows = rows.repeat(int(repeats), interleave=True)

    made = asyncio.run(worker.generate_sequences(rows))

    batch, others = made.batch, made.non_tensor_batch
    found = []
    for n in range(len(made)):
        attended = batch["attention_mask"][n].bool()
        mask = batch["response_mask"][n].bool()
        found.append(
            {
                "token_ids": batch["input_ids"][n][attended].tolist(),
                "sampled": batch["responses"][n][mask].tolist(),
                "logprobs": batch["rollout_log_probs"][n][mask].tolist(),
                "scores": batch["rm_scores"][n][batch["rm_scores"][n] != 0].tolist(),
                "turns": int(others["__num_turns__"][n]),
                "versions": [others["min_global_steps"][n], others["max_global_steps"][n]],
                "index": int(others["index"][n]),
            }
        )
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
