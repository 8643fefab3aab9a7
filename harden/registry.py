"""From a method's name and its settings to the method, with the nearest name for a typing error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from harden.errors import UsageError
from harden.plan import Plan
from harden.spelling import nearest, refuse_unknown
from harden.types import Method

PARTS = ("recover", "prune", "repair")
"""Of a method: `[method.prune] rounds = 5` in a plan sets the field `rounds` of its pruner."""

Settings = Mapping[str, Mapping[str, Any]]


def known() -> dict[str, Callable[..., Method]]:
    """Every method by its name."""
    from harden.methods import METHODS  # imports torch, which `harden --help` must not wait for

    return METHODS


def find(
    name: str,
    settings: Settings | None = None,
    methods: Mapping[str, Callable[..., Method]] | None = None,
    *,
    recover: str | None = None,
) -> Method:
    """The method of that name, its parts with these settings; it looks for triggers as `recover` does, if named."""
    table = known() if methods is None else methods
    for wanted in (name, recover):
        if wanted is not None and wanted not in table:
            raise UsageError(
                f"there is no method called {wanted!r}.{nearest(wanted, table)}",
                hint=f"`harden methods` lists them: {', '.join(table) or 'none is installed'}.",
            )
    method = table[name]()
    if recover is not None:
        method = replace(method, recover=table[recover]().recover)
    return configured(method, settings or {})


def planned(plan: Plan) -> Method:
    """The method that a run is to take."""
    return find(plan.method, plan.method_settings, recover=plan.recover)


def configured(method: Method, settings: Settings) -> Method:
    """The method with some of its settings changed; a setting that it does not have is refused."""
    refuse_unknown(settings, PARTS, f"the method {method.name!r}")
    for part, changes in settings.items():
        stage = getattr(method, part)
        if stage is None or not is_dataclass(stage):
            raise UsageError(
                f"the method {method.name!r} has no settings for {part!r}.", hint=f"Leave out [method.{part}]."
            )
        method = replace(method, **{part: _changed(stage, changes, f"method.{part}")})  # type: ignore[arg-type]
    return method


def _changed(stage: Any, changes: Mapping[str, Any], table: str) -> Any:
    """The part with these settings; a field that is itself made of fields is a table of its own."""
    refuse_unknown(changes, [f.name for f in fields(stage) if f.init], f"[{table}]")
    fitted = {}
    for key, value in changes.items():
        default = getattr(stage, key)
        if is_dataclass(default) and isinstance(value, Mapping):
            fitted[key] = _changed(default, value, f"{table}.{key}")
        elif isinstance(default, tuple) and default and all(is_dataclass(d) for d in default):
            fitted[key] = _chosen(default, value, f"{table}.{key}")
        else:
            fitted[key] = _fitted(default, value, f"[{table}] {key}")
    try:
        return replace(stage, **fitted)
    except ValueError as error:  # a part may check its own settings when it is made
        raise UsageError(f"[{table}]: {error}") from error


def _chosen(default: tuple[Any, ...], value: Any, table: str) -> tuple[Any, ...]:
    """Some of several parts, told apart by their names, in the order given: `[[method.recover.families]]`."""
    named = {part.name: part for part in default}
    if not isinstance(value, list | tuple) or not all(isinstance(v, Mapping) and "name" in v for v in value):
        raise UsageError(f"[[{table}]] takes tables that each have a name, of {', '.join(named)}; {value!r} came.")
    for changes in value:
        if changes["name"] not in named:
            raise UsageError(
                f"[[{table}]]: there is no {changes['name']!r}.{nearest(str(changes['name']), named)}",
                hint=f"Known are {', '.join(named)}.",
            )
    return tuple(_changed(named[changes["name"]], changes, table) for changes in value)


def settings_of(method: Method) -> dict[str, dict[str, Any]]:
    """Every setting of every part, as the report writes it down."""
    return {
        part: _plain(stage) for part in PARTS if (stage := getattr(method, part)) is not None and is_dataclass(stage)
    }


def _plain(stage: Any) -> dict[str, Any]:
    return {f.name: _value(getattr(stage, f.name)) for f in fields(stage)}


def _value(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(value)
    if isinstance(value, list | tuple):
        return [_value(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _fitted(default: Any, value: Any, where: str) -> Any:
    """The value, if it is of the kind that the default is; TOML writes tuples as lists and 5.0 as 5."""
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if default is not None and type(value) is not type(default):
        raise UsageError(f"{where} takes {type(default).__name__} ({default!r} by default), and {value!r} came.")
    return value
