"""A program for `agent: external` that asks in two histories: the first is a side branch."""

from __future__ import annotations

import json
import os
import urllib.request


def ask(question: str) -> None:
    body = {"model": "policy", "messages": [{"role": "user", "content": question}]}
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        data=json.dumps(body).encode(),
        headers={
            "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"],
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        answer.read()


if __name__ == "__main__":
    with open(os.environ["GYM_RAY_TASK"]) as file:
        question = json.load(file)["responses_create_params"]["input"]
    ask(f"A draft, please. {question}")
    ask(question)
