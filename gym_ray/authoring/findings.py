"""What a check of an environment found out."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question.

    Attributes:
        check: the question, in a word or two.
        ok: whether all is well.
        detail: what was seen; when not `ok`, also what to change.
    """

    check: str
    ok: bool
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class CheckReport:
    """Everything found out about one environment.

    Attributes:
        environment: its name.
        rows: how many example rows were tried.
        findings: in the order of the checks.
        example: one of the rollouts as text, with its verdict; "" where none could be played.
    """

    environment: str
    rows: int
    findings: tuple[Finding, ...]
    example: str = ""

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)
