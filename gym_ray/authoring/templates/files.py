"""The files of a template, and what those of all templates share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from string import Template


@dataclasses.dataclass(frozen=True, slots=True)
class TemplateFiles:
    """The files of an environment.

    In the texts stand `$name`, `$title`, `$class_name` and `$folder`.

    Attributes:
        code: `__init__.py`.
        config: `config.yaml`, which samples from the bundled model.
        scripted: `scripted.yaml`, which needs no model.
        readme: `README.md`.
        rows: of `data/example.jsonl`; eight.
    """

    code: Template
    config: Template
    scripted: Template
    readme: Template
    rows: Sequence[dict[str, object]]


def config_of(section: str, *, model_len: int, output_tokens: int) -> Template:
    """A `config.yaml`.

    Args:
        section: lines of the environment's section, after its entry point.
        model_len: tokens of a rollout at most.
        output_tokens: tokens of a turn at most.
    """
    return Template(
        f"""\
# $title on the bundled 135M model, without a GPU (8 tasks, 4 rollouts each):
#
#   gym-ray collect $folder/config.yaml
#
# A model of your own: policy.model=PATH-OR-HUB-NAME policy.resources.num_gpus=1
policy:
  engine: vllm
  model: bundled:smollm2-135m
  engine_args: {{max_model_len: {model_len}, max_num_seqs: 32}}
environments:
  $name:
    entrypoint: ".:$class_name"
{section}verification: {{timeout_seconds: 10, processes: 1}}
sampling: {{temperature: 1.0, max_output_tokens: {output_tokens}}}
collect:
  input: $folder/data/example.jsonl
  output: runs/$name
  num_repeats: 4
  max_in_flight: 32
"""
    )


def scripted_of(section: str, replies: str) -> Template:
    """A `scripted.yaml`.

    Args:
        section: as in `config_of`.
        replies: YAML of what the policy says, with the space before it.
    """
    return Template(
        f"""\
# $title without a model: a policy that says what is written here, whatever it is asked.
#
#   gym-ray collect $folder/scripted.yaml
policy:
  engine: scripted
  engine_args:
    reply:{replies}
environments:
  $name:
    entrypoint: ".:$class_name"
{section}verification: {{timeout_seconds: 10, processes: 1}}
collect:
  input: $folder/data/example.jsonl
  output: runs/$name-scripted
  num_repeats: 2
"""
    )


def readme_of(fields: str, metrics: str) -> Template:
    """A `README.md`.

    Args:
        fields: of a row, in Markdown.
        metrics: the same of a rollout.
    """
    return Template(
        f"""\
# $name

Say here what the policy is asked, what is rewarded, and what is not judged.

**Task fields.** {fields}

**Metrics.** {metrics}

```bash
gym-ray env check $folder                     # what a run relies on
gym-ray env try $folder                       # you are the policy
gym-ray collect $folder/scripted.yaml         # a policy that says what it is given
gym-ray collect $folder/config.yaml           # the bundled model
```
"""
    )
