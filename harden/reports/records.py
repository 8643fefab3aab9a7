"""Between the values of outcome.py and report.json (schema 1): every field under its own name.

But for these:

    Filter               "layer[3]"
    ClassEvidence.label  "class"
    NaN, infinity        null, since JSON has no word for them
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from harden.errors import BadData
from harden.outcome import SCHEMA, Report
from harden.types import ClassEvidence, Filter

REPORT = "report.json"


def encode(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, Filter):
        return str(value)
    if isinstance(value, ClassEvidence):
        return {
            "class": value.label,
            "score": encode(value.score),
            "threshold": value.threshold,
            "method": value.method,
        }
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [encode(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    return value.isoformat() if isinstance(value, date) else str(value)


def dumps(report: Report) -> str:
    """The text of report.json; `schema` comes first, so that a reader knows what it reads."""
    return json.dumps({"schema": report.schema, **encode(report)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_report(run: Path) -> Report:
    """The report of a run folder, or of a report.json by itself."""
    path = run / REPORT if run.is_dir() else run
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror}.", hint="Give the folder of a finished run.") from error
    except ValueError as error:
        raise BadData(f"{path} is damaged: {error}.") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        came = found.get("schema") if isinstance(found, dict) else type(found).__name__
        raise BadData(f"{path} has schema {came!r}; this version reads schema {SCHEMA}.")
    try:
        report: Report = decode(Report, found)
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(
            f"{path} does not hold what schema {SCHEMA} asks for: {type(error).__name__}: {error}."
        ) from error
    return report


def decode(kind: Any, value: Any) -> Any:
    """A value of this type from what JSON says; what does not fit raises."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else decode(next(k for k in inner if k is not type(None)), value)
    if kind is Filter:
        layer, index = re.fullmatch(r"(.*)\[(\d+)\]", value).groups()  # type: ignore[union-attr]
        return Filter(layer, int(index))
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        given = {"label" if kind is ClassEvidence and key == "class" else key: v for key, v in value.items()}
        return kind(**{key: decode(hints[key], v) for key, v in given.items()})  # type: ignore[operator]
    if origin is tuple and inner[-1] is Ellipsis:
        return tuple(decode(inner[0], v) for v in value)
    if origin is tuple:
        return tuple(decode(k, v) for k, v in zip(inner, value, strict=True))
    if origin in (Sequence, list):
        return [decode(inner[0], v) for v in value]
    if origin is Literal:
        return _one_of(inner, value)
    if kind is Any or origin is Mapping:
        return value
    if kind is Path:
        return Path(value)
    if kind is float:
        return math.nan if value is None else _a(int | float, value)
    return _a(kind, value)


def _one_of(choices: tuple[Any, ...], value: Any) -> Any:
    if value not in choices:
        raise ValueError(f"{value!r} is none of {choices}")
    return value


def _a(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind}")
    return value
