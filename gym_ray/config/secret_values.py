"""Secrets in a config, which what is shown of it or carried to the Hub must not tell.

Covered: settings whose name says secret, text that looks like the tokens of widely
used services, passwords in addresses, and the value of every environment variable that the config
names for a secret, and of HF_TOKEN. Not covered: what is inside task rows and rollouts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

_SECRET_NAME = re.compile(
    r"(?i:(^|[_-])(api[_-]?keys?|apikey|access[_-]?key|private[_-]?key|secret([_-]?key)?|password|"
    r"passwd|credentials?|authorization|(api|auth|access|bearer|hf|session)[_-]?token)$|^token$)|"
    # As environment variables are called.
    r"^[A-Z0-9_]*(TOKEN|KEY|SECRET|PASSWORD)$"
)
_SECRET_TEXT = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|"
    r"\bgithub_pat_\w{20,}|\bAKIA[0-9A-Z]{16}\b|\bxox[abeoprs]-[\w-]{10,}|\bnvapi-[\w-]{16,}|"
    r"--[\w-]*(api[-_]?key|token|secret|password)(=\S| (?![-$])\S{8})|"
    r"[?&][\w-]*(api[-_]?key|token|secret|password|signature)=[^&\s]|"
    r"\bBearer\s+[\w.~+/-]{16,}|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s@]+@"
)
#: The token of the Hub, which no config names.
_HUB_TOKEN = "HF_TOKEN"

#: `${oc.env:NAME}`: the name of a variable, not its value.
_REFERENCE = re.compile(r"\$\{[^}]*\}")
#: Shorter values of variables are no secrets, and would be found everywhere.
_SHORTEST = 8


def secret_settings(tree: Any) -> list[str]:
    """Dotted names of the settings that hold a secret; the values are never told.

    Args:
        tree: a config as plain values.
    """
    held = _held(tree)
    found = [path for path, name, text in _texts(tree) if _is_secret(name, text, held)]
    return list(dict.fromkeys(found))


def covered_argument(argument: str) -> str:
    """A word of a command line; of an assignment, or a word, that holds a secret what names it."""
    key, sign, value = argument.partition("=")
    if not sign:
        return "***" if secret_settings([argument]) else argument
    name = key.rpartition(".")[2].lstrip("+")
    return f"{key}=***" if secret_settings({name: _loaded(value)}) else argument


def _loaded(value: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        return value


def _is_secret(name: str, text: str, held: set[str]) -> bool:
    text = _REFERENCE.sub("", text)
    if any(value in text for value in held) or _SECRET_TEXT.search(text):
        return True
    return bool(_SECRET_NAME.search(name) and text)


def _texts(tree: Any, path: str = "", name: str = "") -> Iterator[tuple[str, str, str]]:
    """Every text in a tree, with its dotted path and the nearest name."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            inner = f"{path}.{key}".lstrip(".")
            if _names_variables(str(key)):
                # Names of environment variables; the secrets are in those. Else it only sounds so.
                yield from (found for found in _texts(value, inner) if not _is_name(found[2]))
            else:
                yield from _texts(value, inner, str(key))
    elif isinstance(tree, list):
        before = ""
        for number, value in enumerate(tree):
            # Of `--api-key`, `VALUE` in a command line the first is the second's name, and of
            # `-e`, `NAME=VALUE` the name is before the sign.
            option = before.lstrip("-") if before.startswith("-") else name
            assigned, sign, rest = value.partition("=") if isinstance(value, str) else ("", "", "")
            if sign and _is_name(assigned):
                yield f"{path}.{number}", assigned, rest
            yield from _texts(value, f"{path}.{number}", option)
            before = value if isinstance(value, str) else ""
    elif isinstance(tree, str | int | float) and not isinstance(tree, bool):
        yield path, name, str(tree)


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z_]\w*", text) is not None and not _SECRET_TEXT.search(text)


def _names_variables(key: str) -> bool:
    return key.endswith("_env") or key == "header_variables"


def _held(tree: Any) -> set[str]:
    """Values of the environment variables that are secret."""
    names = {_HUB_TOKEN, *_variables(tree)}
    values = {os.environ.get(name, "") for name in names}
    return {value for value in values if len(value) >= _SHORTEST}


def _variables(tree: Any) -> Iterator[str]:
    if isinstance(tree, list):
        for value in tree:
            yield from _variables(value)
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        if not _names_variables(str(key)):
            yield from _variables(value)
        elif isinstance(value, dict):
            yield from (str(name) for name in value.values())
        elif isinstance(value, str):
            yield value
