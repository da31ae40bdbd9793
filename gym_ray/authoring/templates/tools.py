"""Tools that change a state, and a verdict on what they left behind."""

from __future__ import annotations

from string import Template

from gym_ray.authoring.templates.files import TemplateFiles, config_of, readme_of, scripted_of

_CODE = Template('''\
"""$title: what the policy can do, and when it is rewarded."""

from __future__ import annotations

from gym_ray import Environment, GoldStep, Outcome, Task, TaskFields, Verdict, tool

#: What is on the shelf of one rollout: how many of each item.
Shelf = dict[str, int]


class $class_name(Environment):
    """Reward 1 when the shelf holds what the row's `goal` says, however it came about."""

    class Fields(TaskFields):
        """Checked in every row before any token is spent."""

        start: dict[str, int]
        goal: dict[str, int]

    async def reset(self, task: Task) -> Shelf:
        """The state of one rollout. Tools get it as `state`, `verify` as `outcome.state`."""
        return dict(task["start"])

    @tool
    async def look(self, state: Shelf) -> Shelf:
        """Tell what is on the shelf."""
        return state

    @tool
    async def put(self, state: Shelf, item: str, count: int = 1) -> str:
        """Put something on the shelf.

        Args:
            item: what.
            count: how many of it.
        """
        return self._change(state, item, count)

    @tool
    async def take(self, state: Shelf, item: str, count: int = 1) -> str:
        """Take something off the shelf.

        Args:
            item: what.
            count: how many of it.
        """
        return self._change(state, item, -count)

    def verify(self, outcome: Outcome) -> Verdict:
        held = {item: count for item, count in outcome.state.items() if count}
        goal = {item: count for item, count in outcome.task["goal"].items() if count}
        calls = sum(item["type"] == "function_call" for item in outcome.items)
        return Verdict(float(held == goal), metrics={"calls": calls})

    def gold_answer(self, task: Task) -> list[GoldStep]:
        """What a perfect policy does, turn by turn; `gym-ray env check` plays it."""
        start, goal = task["start"], task["goal"]
        calls: list[GoldStep] = []
        for item in sorted({*start, *goal}):
            change = goal.get(item, 0) - start.get(item, 0)
            if change:
                arguments = {"item": item, "count": abs(change)}
                calls.append({"name": "put" if change > 0 else "take", "arguments": arguments})
        return [*calls, "Done."]

    def _change(self, state: Shelf, item: str, count: int) -> str:
        left = state.get(item, 0) + count
        if left < 0:
            # The policy is told, and may go on.
            raise ValueError(f"there are only {state.get(item, 0)} {item}")
        state[item] = left
        return f"There are {left} {item} now."
''')

_TASKS = [
    ("Put two jars on the shelf.", {}, {"jars": 2}),
    ("Take one egg off the shelf.", {"eggs": 3}, {"eggs": 2}),
    ("Put a bottle beside the jars.", {"jars": 1}, {"jars": 1, "bottles": 1}),
    ("Take all cups off the shelf. Look first.", {"cups": 4, "plates": 1}, {"plates": 1}),
    ("Double the candles. Look first.", {"candles": 3}, {"candles": 6}),
    ("Swap the book for two maps.", {"books": 1}, {"maps": 2}),
    ("See that there are five spoons. Look first.", {"spoons": 2}, {"spoons": 5}),
    ("Put three apples and one pear on the shelf.", {}, {"apples": 3, "pears": 1}),
]

_REPLIES = """
      # One for each turn; the last one again, should there be more.
      - |-
        <tool_call>
        {"name": "put", "arguments": {"item": "jars", "count": 2}}
        </tool_call>
      - Done."""

_SECTION = "    agent_options: {max_turns: 6}\n"

TEMPLATE = TemplateFiles(
    code=_CODE,
    config=config_of(_SECTION, model_len=4096, output_tokens=128),
    scripted=scripted_of(_SECTION, _REPLIES),
    readme=readme_of(
        "`start` and `goal` (required): how many of each item are on the shelf at first, and "
        "have to be\nat the end. A goal that is the start would reward doing nothing.",
        "`calls`: how many calls the policy made.",
    ),
    rows=[
        {"responses_create_params": {"input": text}, "start": start, "goal": goal}
        for text, start, goal in _TASKS
    ],
)
