"""The three shapes of tests: standard input and output, function calls, and assertions.

A test builds the program to run and judges how it ended. Expected outputs of the first two never
enter the sandbox, so no program can find them there.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from typing import Any

from gym_ray.environment import TaskFields
from gym_ray.environments.code.outputs import same_output, same_value
from gym_ray.sandbox import Program, SandboxResult


class UnitTests(TaskFields):
    """`inputs` and `outputs` (with `fn_name`: of calls of that function), or `asserts`."""

    inputs: list[Any] | None = None
    outputs: list[Any] | None = None
    fn_name: str | None = None
    asserts: list[str] | None = None
    setup: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class StandardTest:
    """The program reads `stdin` and writes `stdout`."""

    stdin: str
    stdout: str

    def program(self, code: str, python: str) -> Program:
        return Program(
            (python, "-I", "run.py"),
            files={"main.py": _encoded(code), "run.py": _RUN},
            stdin=_encoded(self.stdin),
        )

    def is_passed(self, result: SandboxResult, float_tolerance: float) -> bool:
        if not result.is_success:
            return False
        return same_output(result.stdout.decode("utf-8", "replace"), self.stdout, float_tolerance)


@dataclasses.dataclass(frozen=True, slots=True)
class CallTest:
    """`function(*arguments)` returns `expected`; a method of `class Solution` will do."""

    function: str
    arguments: list[Any]
    expected: Any

    def program(self, code: str, python: str) -> Program:
        return Program(
            (python, "-I", "call.py"),
            files={"solution.py": _encoded(code), "call.py": _CALL},
            stdin=json.dumps([self.function, self.arguments]).encode(),
        )

    def is_passed(self, result: SandboxResult, float_tolerance: float) -> bool:
        if not result.is_success:
            return False
        try:
            value = json.loads(result.stdout.decode().rpartition("\n")[2])
        except ValueError:
            return False
        return same_value(value, self.expected, float_tolerance)


@dataclasses.dataclass(frozen=True, slots=True)
class AssertTest:
    """A statement that raises nothing, run after the program and `setup` in one interpreter."""

    statement: str
    setup: str
    token: str

    def program(self, code: str, python: str) -> Program:
        return Program(
            (python, "-I", "check.py"),
            files={"solution.py": _encoded(code), "check.py": _CHECK},
            stdin=json.dumps([self.setup, self.statement, self.token]).encode(),
        )

    def is_passed(self, result: SandboxResult, float_tolerance: float) -> bool:
        return result.is_success and result.stdout.endswith(self.token.encode())


#: What LiveCodeBench's runner puts before every program: all of these names, unless the program has
#: its own, and calls 50,000 deep. They are made builtins, so that no name of the program's is taken
#: from here by mistake; `plain` is what the builtins were before.
_PRELUDE = b"""
import builtins, resource, sys
plain = dict(vars(builtins))
names = {}
exec('''
from string import *
from re import *
from datetime import *
from collections import *
from heapq import *
from bisect import *
from copy import *
from math import *
from random import *
from statistics import *
from itertools import *
from functools import *
from operator import *
from io import *
from sys import *
from json import *
from typing import *
import string, re, datetime, collections, heapq, bisect, copy, math, random, statistics
import itertools, functools, operator, io, sys, json
''', names)
for key, value in names.items():
    if key not in plain and not key.startswith("_"):
        setattr(builtins, key, value)
# The kernel leaves a main thread 128 MiB to grow into. Its stack is no part of the program's data.
hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
wanted = 1 << 30
try:
    resource.setrlimit(resource.RLIMIT_STACK, (wanted if hard < 0 else min(wanted, hard), hard))
except (OSError, ValueError):
    pass
sys.setrecursionlimit(50_000)
def module(name, file):
    found = sys.modules[name] = type(sys)(name)
    found.__file__ = file
    with open(file, "rb") as source:
        exec(compile(source.read(), file, "exec"), found.__dict__)
    return found.__dict__
"""

_RUN = (
    _PRELUDE
    + b"""
sys.argv[0] = "main.py"
module("__main__", "main.py")
"""
)

#: What the program prints goes to standard error, so that the last line is the answer.
_CALL = (
    _PRELUDE
    + b"""
import json, os
name, arguments = json.loads(sys.stdin.read())
answer = os.dup(1)
os.dup2(2, 1)
space = module("solution", "solution.py")
function = space[name] if name in space else getattr(space["Solution"](), name)
value = json.dumps(function(*arguments))
with open(answer, "w") as file:
    file.write("\\n" + value)
"""
)

#: The token is written only after the statement: a program that exits early has not passed. The
#: statement sees what the program and the row define, and not what the prelude does.
_CHECK = (
    _PRELUDE
    + b"""
import json, os
setup, statement, token = json.loads(sys.stdin.read())
answer = os.dup(1)
os.dup2(2, 1)
space = module("solution", "solution.py")
exec(compile(setup, "setup", "exec"), space)
exec(compile(statement, "test", "exec"), {**space, "__builtins__": plain})
with open(answer, "w") as file:
    file.write(token)
"""
)


def tests_of(unit_tests: dict[str, Any]) -> list[StandardTest] | list[CallTest] | list[AssertTest]:
    """The tests of a row's `unit_tests`.

    Raises:
        ValueError: there are none, or they contradict each other.
    """
    fields = UnitTests.model_validate(unit_tests)
    if fields.asserts is not None:
        if fields.inputs is not None or fields.outputs is not None:
            raise ValueError("has asserts as well as inputs and outputs; keep one of the two")
        if not fields.asserts:
            raise ValueError("asserts is empty; a program can only be judged by tests")
        for statement in (fields.setup, *fields.asserts):
            _check_syntax(statement)
        # Not to be guessed by the program, and not the same for any two tests.
        return [
            AssertTest(statement, fields.setup, secrets.token_hex(16))
            for statement in fields.asserts
        ]
    if not fields.inputs or not fields.outputs:
        raise ValueError("needs inputs and outputs, or asserts; a program is judged by tests only")
    if len(fields.inputs) != len(fields.outputs):
        raise ValueError(f"has {len(fields.inputs)} inputs and {len(fields.outputs)} outputs")
    pairs = list(zip(fields.inputs, fields.outputs, strict=True))
    if fields.fn_name:
        return [
            CallTest(fields.fn_name, _arguments(given), _parsed(expected))
            for given, expected in pairs
        ]
    for given, expected in pairs:
        if not isinstance(given, str) or not isinstance(expected, str):
            raise ValueError("inputs and outputs must be text unless fn_name is set")
    return [StandardTest(given, expected) for given, expected in pairs]


def _arguments(given: Any) -> list[Any]:
    """A list of arguments, or text with one argument as JSON on each line."""
    if isinstance(given, list):
        return given
    if not isinstance(given, str):
        raise ValueError("with fn_name, an input is a list of arguments or one JSON value a line")
    try:
        return [json.loads(line) for line in given.splitlines() if line.strip()]
    except ValueError:
        raise ValueError(f"input {given[:60]!r} is not one JSON value on each line") from None


def _parsed(expected: Any) -> Any:
    """Text that is JSON stands for its value, other text for itself."""
    if not isinstance(expected, str):
        return expected
    try:
        return json.loads(expected)
    except ValueError:
        return expected


def _check_syntax(statement: str) -> None:
    try:
        compile(statement, "test", "exec")
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{statement[:60]!r} is not Python: {error}") from None


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
