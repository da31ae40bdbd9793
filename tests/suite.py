"""The parts of the suite, what each may take, and the account at the end of a run.

Called by scripts/test.sh, which says how. A part that fails, or takes longer than its budget,
fails the run, but every part is run; docs/testing.md is made from this module and the tests'
markers by scripts/write_docs.py.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PASSED = ROOT / ".venv" / "all-tests-passed"
NEMO_GYM_ROWS = ROOT.parent / "shared" / "data" / "nemo_gym"
#: A checkout of NeMo RL, which is not on the package index.
NEMO_RL = Path(os.environ.get("GYM_RAY_NEMO_RL") or ROOT.parent / "shared" / "nemo-rl")
NEMO_RL_TESTS = "tests/interop/test_nemo_rl.py"

#: Scales every budget and the time limit of every test, for machines slower than two quiet cores.
PATIENCE_NAME = "GYM_RAY_TEST_PATIENCE"
PATIENCE = float(os.environ.get(PATIENCE_NAME) or "1")

SLOWEST = 10

#: Names the file that tests tell what this machine does not allow them to check.
UNCHECKED = "GYM_RAY_UNCHECKED"

#: Two processes, where tests share no Ray cluster; tests of a file in the same one,
#: where they share what is dear to start, or measure time.
TWO = ("-n", "2", "--dist", "worksteal")


TWO_BY_FILE = ("-n", "2", "--dist", "loadfile")

#: Three, where much of a test's time is spent waiting for processes that are not busy either.
THREE_BY_FILE = ("-n", "3", "--dist", "loadfile")


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the suite.

    Attributes:
        name: its folder below tests/; `check` has none.
        holds: what it is about, for docs/testing.md.
        minutes: what the short part may take on two quiet cores: some 1.6 times what it takes.
            0 where all of it is long.
        all_minutes: what all of it may take.
        arguments: further arguments of pytest.
    """

    name: str
    holds: str
    minutes: float
    all_minutes: float
    arguments: tuple[str, ...] = ()


PARTS = {
    part.name: part
    for part in (
        Part("check", "ruff, mypy and the import contracts", 1, 1),
        Part("unit", "modules by themselves; commands, files, pages of docs/", 4.5, 6, TWO),
        Part("tokens", "renderers and chat templates, token by token", 1, 4, TWO),
        Part("gateway", "the HTTP API over a scripted policy", 2.5, 8, TWO),
        Part("sandbox", "untrusted programs and what they try", 2, 5, TWO_BY_FILE),
        Part("environments", "the environments that come along", 2.2, 4, TWO),
        Part("service", "`collect` and `serve` on a Ray cluster", 7, 40, THREE_BY_FILE),
        Part("chaos", "processes and nodes killed in the middle", 3.5, 20),
        Part("engine", "vLLM: exact tokens, logprobs, exports that train", 7.5, 20, THREE_BY_FILE),
        Part("interop", "rows and servers of NeMo Gym, verl, KubeRay", 1.2, 12),
        Part("fresh", "the README's commands on a machine that has nothing; the image", 0, 75),
    )
}


@dataclasses.dataclass
class Result:
    """What a part came to. Skipped tests are in `unchecked`, with their reasons."""

    part: Part
    ok: bool = True
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    durations: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    unchecked: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Long:
    """A use of the marker `long`: a test, or a whole file, that only `scripts/test.sh all` runs."""

    file: str
    test: str
    reason: str


def main(arguments: Sequence[str]) -> int:
    install_seconds, *arguments = arguments
    everything = arguments[:1] == ["all"]
    names = arguments[1:] if everything else arguments
    if names and not set(names) <= PARTS.keys():
        if everything or not (names[0].startswith("-") or _exists(names[0])):
            wrong = next(name for name in names if name not in PARTS)
            print(f"scripts/test.sh: no part and no test named {wrong}; parts: {' '.join(PARTS)}")
            return 2
        return _call(sys.executable, "-m", "pytest", *names)
    commit = _clean_commit()
    results: list[Result] = []
    try:
        for name in names or [n for n, part in PARTS.items() if everything or part.minutes]:
            results.append(run(PARTS[name], everything=everything))
    except KeyboardInterrupt:
        print("interrupted")
        return 130
    ok = report(results, everything=everything, install_seconds=float(install_seconds))
    if ok and everything and not names and commit is not None and commit == _clean_commit():
        PASSED.write_text(f"{commit}\n")
    return 0 if ok else 1


def run(part: Part, *, everything: bool) -> Result:
    """Run a part, its output as it comes."""
    result = Result(part)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gym-ray-tests-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o1777)  # the unprivileged user of the sandbox tests writes there too
        told = folder / "unchecked"
        told.touch()
        told.chmod(0o666)
        os.environ[UNCHECKED] = str(told)
        for number, (title, *command) in enumerate(_commands(part, result, everything)):
            _say(title)
            file = folder / f"{number}.xml"
            is_pytest = "pytest" in command
            code = _call(*command, *([f"--junit-xml={file}"] if is_pytest else []))
            result.ok &= code == 0
            if is_pytest and file.exists():
                read_results(file, result)
        result.unchecked += told.read_text().splitlines()
    result.seconds = time.monotonic() - began
    return result


def _commands(part: Part, result: Result, everything: bool) -> Iterator[tuple[str, ...]]:
    """Title and arguments of each of a part's commands."""
    if part.name == "check":
        for command in ("ruff check .", "ruff format --check .", "mypy", "lint-imports --no-cache"):
            yield command, *command.split()
        return
    pytest = [sys.executable, "-m", "pytest", f"tests/{part.name}", *part.arguments]
    if not everything:
        pytest += ["-m", "not long"]
    if part.name == "interop" and not NEMO_GYM_ROWS.is_dir():
        result.unchecked.append("interop: NeMo Gym's rows are not in ../shared/data")
        return
    if part.name == "tokens" and everything:
        yield "real tokenizers", "scripts/tokenizers.sh"
    if part.name == "interop" and everything:
        yield "NeMo Gym's environment", "scripts/nemo-gym.sh"
        yield "verl's environment", "scripts/verl.sh"
        # In a command of its own, for its source may not be there.
        pytest += ["--ignore", NEMO_RL_TESTS]
        if NEMO_RL.is_dir():
            pytest_of_it = (sys.executable, "-m", "pytest", NEMO_RL_TESTS)
            yield "NeMo RL's own code", "scripts/nemo_rl.sh", str(NEMO_RL), *pytest_of_it
        else:
            result.unchecked.append(
                f"interop: NeMo RL's own code: there is no checkout in {NEMO_RL} (GYM_RAY_NEMO_RL)"
            )
    if part.name == "gateway" and everything:
        if shutil.which("npm") is None:
            result.unchecked.append("gateway: outside clients, which need node and npm")
            pytest += ["--ignore", "tests/gateway/test_outside_clients.py"]
        else:
            yield "outside clients", "scripts/outside-clients.sh"
    if part.name == "fresh":
        yield from _fresh(result)
        return
    yield f"{part.name} tests", *pytest
    if part.name == "sandbox" and everything:
        if os.geteuid() != 0:
            result.unchecked.append("sandbox: as a second user, which takes root to become")
        elif subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
            result.unchecked.append("sandbox: as a second user: no mount namespace can be made")
        else:
            as_nobody = (sys.executable, "tests/sandbox/as_nobody.py", *pytest)
            yield "sandbox tests as an unprivileged user", *as_nobody, "-p", "no:cacheprovider"


def _fresh(result: Result) -> Iterator[tuple[str, ...]]:
    """Machines that have nothing, as far as they can be made here."""
    lacking = [name for name in ("podman", "debootstrap") if not shutil.which(name)]
    if os.geteuid() != 0:
        lacking.append("root")
    if lacking:
        result.unchecked.append(f"fresh: without {', '.join(lacking)} no machine can be made")
        return
    yield "the image", "scripts/fresh.sh", "image"
    yield "Debian 12", "scripts/fresh.sh", "debian12"
    yield "Debian 13", "scripts/fresh.sh", "debian13", "--quick"


def read_results(file: Path, result: Result) -> None:
    """Add what a JUnit file of pytest says."""
    for case in ElementTree.parse(file).iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        result.durations.append((float(case.get("time", 0)), name))
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            result.failed += 1
        elif skipped is not None:
            result.skipped += 1
            result.unchecked.append(f"{name}: {skipped.get('message')}")
        else:
            result.passed += 1


def report(results: Sequence[Result], *, everything: bool, install_seconds: float) -> bool:
    """Print the account of a run; whether it passed."""
    _say("account")
    print(f"{'part':<14}{'passed':>8}{'failed':>8}{'minutes':>9}{'budget':>8}")
    late = []
    for result in results:
        part = result.part
        budget = (part.all_minutes if everything else part.minutes) * PATIENCE
        minutes = result.seconds / 60
        row = f"{part.name:<14}{result.passed:>8}{result.failed:>8}{minutes:>9.1f}{budget:>8.1f}"
        print(row if result.ok else f"{row}  FAILED")
        if minutes > budget:
            late.append(f"{part.name} took {minutes:.1f} minutes, its budget is {budget:.1f}")
    total = sum(result.seconds for result in results) / 60
    print(f"tests took {total:.1f} minutes, the installation before {install_seconds / 60:.1f}")
    slowest = sorted((case for result in results for case in result.durations), reverse=True)
    if slowest:
        print("\nslowest:")
    for seconds, name in slowest[:SLOWEST]:
        print(f"{seconds:7.1f} s  {name}")
    unchecked = list(dict.fromkeys(text for result in results for text in result.unchecked))
    if not everything:
        folders = tuple(f"tests/{result.part.name}/" for result in results)
        count = sum(long.file.startswith(folders) for long in long_tests())
        if count:
            unchecked.append(
                f"what is long: {count} tests and files that docs/testing.md names and "
                "scripts/test.sh all runs"
            )
    if unchecked:
        print("\nNOT CHECKED:")
    for text in unchecked:
        print(f"- {text}")
    if late:
        print(f"\nOVER BUDGET (on a slower machine set {PATIENCE_NAME}=2):")
    for text in late:
        print(f"- {text}")
    broken = [result.part.name for result in results if not result.ok]
    if broken:
        print(f"\nFAILED: {', '.join(broken)}")
    passed, failed, skipped = (
        sum(getattr(result, name) for result in results) for name in ("passed", "failed", "skipped")
    )
    print(f"\ntests: {passed} passed, {failed} failed" + f", {skipped} skipped" * bool(skipped))
    return not broken and not late


def tell_unchecked(texts: Sequence[str]) -> None:
    """Have the account say what could not be checked here; for conftest files."""
    if file := os.environ.get(UNCHECKED):
        with open(file, "a") as told:
            told.writelines(f"{text}\n" for text in texts)


def long_tests() -> list[Long]:
    """Every use of the marker, in the order of files and lines."""
    found: list[Long] = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text()
        for statement in ast.parse(text).body if "mark.long" in text else ():
            test = getattr(statement, "name", "")
            for node in ast.walk(statement):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.long":
                    reason = ast.literal_eval(node.args[0])
                    found.append(Long(path.relative_to(ROOT).as_posix(), test, reason))
    return found


def _exists(name: str) -> bool:
    return (ROOT / name.partition("::")[0]).exists()


def _clean_commit() -> str | None:
    """The commit the work tree is of; None when it is of none."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else "unknown"

    if shutil.which("git") is None or git("status", "--porcelain") != "":
        return None
    return git("rev-parse", "HEAD")


def _say(title: str) -> None:
    print(f"\033[1m==> {title}\033[0m", flush=True)


def _call(*command: str) -> int:
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
