"""What programs of the code environment find when they start: as LiveCodeBench's runner has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gym_ray.environments.code import CodeEnvironment
from tests.environments.test_code import fenced, outcome_of


@pytest.fixture(scope="module")
def environment() -> Iterator[CodeEnvironment]:
    opened = CodeEnvironment(test_seconds=20)
    yield opened
    opened.close()


def calls(name: str, given: object, expected: object) -> dict[str, object]:
    return {"fn_name": name, "inputs": [[given]], "outputs": [expected]}


def reward(environment: CodeEnvironment, tests: dict[str, object], code: str) -> float:
    return environment.verify(outcome_of(tests, fenced(code))).reward


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("values: List[int] = [3]\nprint(sum(values))", "3"),
        ("print(math.isqrt(10), sqrt(9), gcd(12, 8))", "3 3.0 4"),
        ("print(sorted(Counter('aab').items()), len(defaultdict(list)))", "[('a', 2), ('b', 1)] 0"),
        ("q = [3, 1]\nheapify(q)\nprint(heappop(q), heapq.nsmallest(1, q))", "1 [3]"),
        ("print(list(permutations([1, 2])), reduce(mul, [2, 3]))", "[(1, 2), (2, 1)] 6"),
        ("print(sys.stdin.readline().strip())", "given"),
        ("print(bisect_left([1, 2], 2), ascii_lowercase[:2], datetime.date(2020, 1, 2))",
         "1 ab 2020-01-02"),
        ("@cache\ndef f(n): return n\nprint(f(2), pow(2, 5, 7), json.dumps([1]), copy.copy([1]))",
         "2 4 [1] [1]"),
    ],
)  # fmt: skip
def test_a_program_may_use_the_standard_imports(
    environment: CodeEnvironment, body: str, expected: str
) -> None:
    assert reward(environment, {"inputs": ["given\n"], "outputs": [expected]}, body) == 1.0


def test_starter_code_with_annotations_is_legal(environment: CodeEnvironment) -> None:
    code = (
        "class Solution:\n"
        "    def total(self, values: List[int], root: Optional['Node'] = None) -> int:\n"
        "        return sum(values) + inf * 0 if False else sum(values)"
    )
    assert reward(environment, calls("total", [1, 2], 3), code) == 1.0
    assert reward(environment, calls("total", [1, 2], 4), code) == 0.0


@pytest.mark.parametrize("depth", [5_000, 20_000])
@pytest.mark.parametrize("through", ["", "@lru_cache(None)\n"])
def test_calls_may_be_deep(environment: CodeEnvironment, depth: int, through: str) -> None:
    deep = f"{through}def deep(n):\n    return 0 if n == 0 else 1 + deep(n - 1)\n"
    assert reward(environment, calls("deep", depth, depth), deep) == 1.0
    asserts = {"asserts": [f"assert deep({depth}) == {depth}"]}
    assert reward(environment, asserts, deep) == 1.0
    standard = {"inputs": [str(depth)], "outputs": [str(depth)]}
    assert reward(environment, standard, f"{deep}print(deep(int(input())))") == 1.0


def test_endless_calls_fail_the_test(environment: CodeEnvironment) -> None:
    assert reward(environment, calls("f", 1, 1), "def f(n): return f(n)") == 0.0


@pytest.mark.parametrize(
    "code",
    [
        "def gcd(a, b): return 7\nprint(gcd(12, 8))",
        "from math import floor as gcd\nprint(gcd(7.5))",
        "math = 7\nprint(math)",
        "if True:\n    sqrt = 7\nprint(sqrt)",
        "def main():\n    count = 7\n    print(count)\nmain()",
    ],
)
def test_names_of_the_program_go_first(environment: CodeEnvironment, code: str) -> None:
    assert reward(environment, {"inputs": [""], "outputs": ["7"]}, code) == 1.0


@pytest.mark.parametrize(
    "code",
    [
        "from __future__ import annotations\nprint(7)",
        "if __name__ == '__main__':\n    print(7)",
        "print(7)\nexit()",
        "print(7)\nsys.exit(0)",
        "import sys\nsys.setrecursionlimit(10**6)\nprint(7)",
        "import dataclasses, pickle\n@dataclasses.dataclass\nclass P:\n    x: 'int'\n"
        "print(pickle.loads(pickle.dumps(P(7))).x)",
        "import threading\nthreading.stack_size(1 << 26)\n"
        "t = threading.Thread(target=lambda: print(7))\nt.start(); t.join()",
        "print(open('main.py').read().count('count(') + 5)",
        "import __main__\n__main__.x = 7\nprint(x)",
        "import atexit\nx = 7\natexit.register(lambda: print(x))",
    ],
)  # fmt: skip
def test_a_program_runs_as_a_script_does(environment: CodeEnvironment, code: str) -> None:
    assert reward(environment, {"inputs": [""], "outputs": ["7"]}, code) == 1.0


def test_names_of_the_prelude_answer_no_test(environment: CodeEnvironment) -> None:
    assert reward(environment, {"asserts": ["assert gcd(12, 8) == 4"]}, "pass") == 0.0
    assert reward(environment, calls("isqrt", 9, 3), "pass") == 0.0
    merging = "class Solution:\n    def merge(self, parts):\n        return sum(parts, [])"
    assert reward(environment, calls("merge", [[2], [1]], [2, 1]), merging) == 1.0
