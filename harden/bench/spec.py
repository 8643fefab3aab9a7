"""A method as the bench's command line names it: NAME, NAME:given, NAME:prune, NAME:epochs=20,rate=0.01.

`NAME:recover=OTHER` lets it look for triggers as another method does.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harden.errors import UsageError
from harden.spelling import nearest


@dataclass(frozen=True)
class Spec:
    """One method of the table."""

    name: str
    given: bool
    """The true trigger is given to it."""
    prune: bool
    """What is dead after it, or found guilty by its repair, is cut out as well."""
    settings: Mapping[str, Any]
    recover: str | None = None
    """The method whose way of looking for triggers it is given."""


def parse(text: str, methods: Mapping[str, Callable[..., Any]]) -> Spec:
    """The method that a text names; UsageError where there is none, or no such setting."""
    name, *rest = text.split(":")
    if name not in methods:
        raise UsageError(
            f"there is no method called {name!r}.{nearest(name, methods)}", hint=f"Known: {', '.join(sorted(methods))}."
        )
    words, settings = {"given": False, "prune": False}, {}
    recover: str | None = None
    known = list(inspect.signature(methods[name]).parameters)
    for part in filter(None, ",".join(rest).split(",")):
        key, equals, value = part.partition("=")
        key = key.replace("-", "_")
        if part in words:
            words[part] = True
        elif not equals:
            raise UsageError(
                f"{text!r}: after the name, 'given', 'prune' or SETTING=VALUE is expected, and {part!r} came"
            )
        elif key == "recover":
            recover = parse(value, methods).name
        elif key not in known:
            raise UsageError(
                f"the method {name!r} has no setting called {key!r}.{nearest(key, known)}",
                hint=f"Known: {', '.join(known) or 'none'}.",
            )
        else:
            settings[key] = _value(value)
    if recover is not None and words["given"]:
        raise UsageError(f"{text!r}: a trigger that is given need not be looked for", hint="Drop given, or recover.")
    return Spec(name, **words, settings=settings, recover=recover)


def separate(text: str, methods: Mapping[str, Callable[..., Any]]) -> list[str]:
    """`ft:epochs=20,rate=0.1,sau` into its methods: a comma before a SETTING=VALUE does not end one."""
    found: list[str] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        if found and "=" in part and part.split(":")[0] not in methods:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def check(texts: Sequence[str], methods: Mapping[str, Callable[..., Any]]) -> None:
    """Refuses the first text that names no method, before anything runs."""
    for text in texts:
        parse(text, methods)


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text
