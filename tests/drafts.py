"""A program for `agent: external` that asks twice, in two histories: one becomes a side branch."""

from __future__ import annotations

import json
import os
import urllib.request

#: The second history drops the first question, as a compacted one would.
QUESTIONS = ("Draft one.", "Forget the draft. Draft two.")


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
    for question in QUESTIONS:
        ask(question)
