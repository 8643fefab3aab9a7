"""The methods by name: a factory for each, whose parts are frozen dataclasses with their settings as fields.

A new method is one file here and two lines below: its import, and its entry.
"""

from __future__ import annotations

from collections.abc import Callable

from harden.types import Method

METHODS: dict[str, Callable[..., Method]] = {}
