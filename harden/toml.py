"""Writes TOML, which the standard library only reads: tables, text, numbers, dates, and lists of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dumps(table: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> str:
    """The table as TOML; `notes` go behind the line of a key as a comment. None is left out."""
    return "\n".join(_lines(table, (), notes or {})).strip() + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...], notes: Mapping[str, str]) -> list[str]:
    lines, inner = [], []
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner += ["", f"[{'.'.join(map(_key, (*path, key)))}]", *_lines(value, (*path, key), notes)]
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            for entry in value:
                inner += ["", f"[[{'.'.join(map(_key, (*path, key)))}]]", *_lines(entry, (*path, key), notes)]
        elif value is not None:
            note = notes.get(".".join((*path, key)), "")
            lines.append(f"{_key(key)} = {_value(value)}{f'  # {note}' if note else ''}")
    return lines + inner


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "nan" if value != value else repr(value)  # repr writes inf as TOML does
    if isinstance(value, int):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str | Path):
        return _text(str(value))
    raise TypeError(f"TOML has no way to write a {type(value).__name__}")


def _text(text: str) -> str:
    """JSON's escapes are TOML's too, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
