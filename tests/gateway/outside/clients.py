"""Agents as their libraries' pages write them, unmodified: two questions, a tool, its results.

Run as `python clients.py CLIENT` in the environment of `scripts/outside-clients.sh`, with
OPENAI_BASE_URL and OPENAI_API_KEY. Knows nothing of gym-ray.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

MODEL = "gpt-4o"
SYSTEM, FIRST, SECOND = "You add.", "What is 1 + 1, and 2 + 2?", "Are you sure?"
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
    "required": ["a", "b"],
}


def add(a: float, b: float) -> str:
    """Sum of two numbers."""
    return str(a + b)


def openai_chat(*, stream: bool) -> None:
    import openai

    client = openai.OpenAI()
    function = {"name": "add", "description": "Sum.", "parameters": PARAMETERS}
    tools: Any = [{"type": "function", "function": function}]
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    for question in (FIRST, SECOND):
        messages.append({"role": "user", "content": question})
        while True:
            asked = {"model": MODEL, "messages": messages, "tools": tools}
            if stream:
                with client.chat.completions.stream(**asked) as parts:
                    message = parts.get_final_completion().choices[0].message
            else:
                message = client.chat.completions.create(**asked).choices[0].message
            messages.append(message.to_dict())
            if not message.tool_calls:
                break
            for call in message.tool_calls:
                result = add(**json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def openai_responses(*, stream: bool) -> None:
    import openai

    client = openai.OpenAI()
    tools: Any = [{"type": "function", "name": "add", "parameters": PARAMETERS, "strict": False}]
    items: list[Any] = []
    for question in (FIRST, SECOND):
        items.append({"role": "user", "content": question})
        while True:
            asked = {"model": MODEL, "instructions": SYSTEM, "input": items, "tools": tools}
            if stream:
                with client.responses.stream(**asked) as parts:
                    response = parts.get_final_response()
            else:
                response = client.responses.create(**asked)
            items += response.output
            calls = [item for item in response.output if item.type == "function_call"]
            if not calls:
                break
            for call in calls:
                output = add(**json.loads(call.arguments))
                items.append(
                    {"type": "function_call_output", "call_id": call.call_id, "output": output}
                )


async def agents_sdk(*, responses: bool, stream: bool) -> None:
    import agents

    agents.set_tracing_disabled(True)
    agents.set_default_openai_api("responses" if responses else "chat_completions")
    agent = agents.Agent(
        name="adder", instructions=SYSTEM, model=MODEL, tools=[agents.function_tool(add)]
    )
    history: list[Any] = []
    for question in (FIRST, SECOND):
        history = [*history, {"role": "user", "content": question}]
        if stream:
            result: Any = agents.Runner.run_streamed(agent, history)
            async for _ in result.stream_events():
                pass
        else:
            result = await agents.Runner.run(agent, history)
        history = result.to_input_list()


async def pydantic_ai(*, responses: bool, stream: bool) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

    model = OpenAIResponsesModel(MODEL) if responses else OpenAIChatModel(MODEL)
    agent = Agent(model, system_prompt=SYSTEM, tools=[add])
    history: Any = None
    for question in (FIRST, SECOND):
        handler = {"event_stream_handler": read_all} if stream else {}
        result = await agent.run(question, message_history=history, **handler)
        history = result.all_messages()


async def read_all(_: Any, events: Any) -> None:
    async for _ in events:
        pass


async def inspect_ai(*, responses: bool) -> None:
    from inspect_ai.model import (
        ChatMessageSystem,
        ChatMessageUser,
        execute_tools,
        get_model,
    )
    from inspect_ai.tool import tool

    @tool
    def adder() -> Any:
        async def execute(a: float, b: float) -> str:
            """Sum of two numbers.

            Args:
                a: one.
                b: the other.
            """
            return add(a, b)

        return execute

    model = get_model(
        f"openai-api/session/{MODEL}",
        base_url=os.environ["OPENAI_BASE_URL"],
        api_key=os.environ["OPENAI_API_KEY"],
        responses_api=responses,
    )
    tools: Any = [adder()]
    messages: list[Any] = [ChatMessageSystem(content=SYSTEM)]
    for question in (FIRST, SECOND):
        messages.append(ChatMessageUser(content=question))
        while True:
            output = await model.generate(messages, tools=tools)
            messages.append(output.message)
            if not output.message.tool_calls:
                break
            results, _ = await execute_tools(messages, tools)
            messages.extend(results)


CLIENTS: dict[str, Any] = {
    "openai-chat": lambda: openai_chat(stream=False),
    "openai-chat-streamed": lambda: openai_chat(stream=True),
    "openai-responses": lambda: openai_responses(stream=False),
    "openai-responses-streamed": lambda: openai_responses(stream=True),
    "agents-chat": lambda: agents_sdk(responses=False, stream=False),
    "agents-chat-streamed": lambda: agents_sdk(responses=False, stream=True),
    "agents-responses": lambda: agents_sdk(responses=True, stream=False),
    "agents-responses-streamed": lambda: agents_sdk(responses=True, stream=True),
    "pydantic-ai-chat": lambda: pydantic_ai(responses=False, stream=False),
    "pydantic-ai-chat-streamed": lambda: pydantic_ai(responses=False, stream=True),
    "pydantic-ai-responses": lambda: pydantic_ai(responses=True, stream=False),
    "pydantic-ai-responses-streamed": lambda: pydantic_ai(responses=True, stream=True),
    "inspect-chat": lambda: inspect_ai(responses=False),
    "inspect-responses": lambda: inspect_ai(responses=True),
}

if __name__ == "__main__":
    running = CLIENTS[sys.argv[1]]()
    if running is not None:
        asyncio.run(running)
