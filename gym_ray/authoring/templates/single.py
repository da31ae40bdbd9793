"""One prompt and one reply."""

from __future__ import annotations

from string import Template

from gym_ray.authoring.templates.files import TemplateFiles, config_of, readme_of, scripted_of

_CODE = Template('''\
"""$title: what the policy is asked, and when it is rewarded."""

from __future__ import annotations

from gym_ray import Environment, Outcome, Task, TaskFields, Verdict


class $class_name(Environment):
    """Reward 1 when the reply contains the expected answer, whatever its case.

    Args:
        short_below: replies under so many characters count as short in the metrics.
    """

    class Fields(TaskFields):
        """Checked in every row before any token is spent."""

        expected_answer: str

    def __init__(self, *, short_below: int = 200) -> None:
        self._short_below = short_below

    def verify(self, outcome: Outcome) -> Verdict:
        found = outcome.task["expected_answer"].casefold() in outcome.text.casefold()
        return Verdict(float(found), metrics={"short": len(outcome.text) < self._short_below})

    def gold_answer(self, task: Task) -> str:
        """What a perfect reply to `task` is; `gym-ray env check` verifies it."""
        return f"The answer is {task['expected_answer']}."
''')

_CAPITALS = {
    "France": "Paris",
    "Japan": "Tokyo",
    "Italy": "Rome",
    "Egypt": "Cairo",
    "Peru": "Lima",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Greece": "Athens",
}

_SECTION = "    params: {short_below: 200}\n"

TEMPLATE = TemplateFiles(
    code=_CODE,
    config=config_of(_SECTION, model_len=1024, output_tokens=64),
    scripted=scripted_of(_SECTION, ' "The answer is Paris."'),
    readme=readme_of(
        "`expected_answer` (required): text the reply has to contain.",
        "`short`: the reply was short.",
    ),
    rows=[
        {
            "responses_create_params": {"input": f"What is the capital of {country}?"},
            "expected_answer": capital,
        }
        for country, capital in _CAPITALS.items()
    ],
)
