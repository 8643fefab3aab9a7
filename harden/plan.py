"""Every setting of a run, and where each came from: flags beat the plan file, the plan file beats the defaults.

A plan is TOML whose keys are the flags with underscores. Paths in it are relative to the plan's own folder, so that it
can be committed beside the model:

    model = "model.pt"
    clean_dir = "data"
    policy = "policy.toml"       # or a table [policy] with the keys of a policy.toml, or lenient, default, strict

    [method]
    name = "auto"
    [method.prune]               # the fields of the method's parts: recover, prune, repair
    rounds = 5
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from harden import toml
from harden.errors import UsageError
from harden.policy import Policy, policy_from, policy_table, read_policy
from harden.spelling import nearest, refuse_unknown

_ELSEWHERE = ("method", "method_settings", "policy", "policy_name", "origins", "out", "sign_key")
"""Told by tables of their own, or nobody's business but this run's."""
FILE_KINDS = ("fp32", "fp16", "int8", "pt2")
"""What a network can be written as; fp32 always is."""


@dataclass(frozen=True)
class Plan:
    """What a run is asked to do. Paths are as a shell in the current folder would read them."""

    model: Path | None = None
    clean_dir: Path | None = None
    verify_dir: Path | None = None
    """Images to report on; without it, a part of those in clean_dir is kept for that."""
    arch: str | None = None
    contract: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_size: tuple[int, ...] | None = None
    trigger: str | None = None
    """A picture, or FILE.py:FUNCTION."""
    trigger_dir: Path | None = None
    mask: Path | None = None
    blend: float = 1.0
    target: str | None = None
    """Name or number of the class that the trigger makes the model say."""
    max_input: int | None = None
    """Bytes that the model file may have and unpack to; without it, 4 GiB."""
    trust_code: bool = False
    """The model file may run code of its own: only for files of one's own."""
    hide_trigger: bool = False
    """The trigger is only measured with: the method does not get to know it."""
    method: str = "auto"
    method_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recover: str | None = None
    """The method whose way of looking for triggers is put in front of this method's own parts."""
    prune: bool = False
    """After the repair, channels that are dead by then are cut out as well, and those that the repair found guilty."""
    align: int = 8
    """Layers that are cut end at multiples of so many filters."""
    max_cut_drop: float = 0.01
    """What removing filters may cost in accuracy, beyond closing the guilty ones."""
    target_speedup: float | None = None
    """Times as fast as the original the file has to be: filters of little use go as well."""
    max_size: int | None = None
    """Bytes of the largest file that ships: the same; and the policy's max_bytes."""
    max_drop: float = 1.0
    """Points of accuracy that either may cost."""
    opset: int = 20
    kinds: tuple[str, ...] = ("fp32",)
    """Files to write: fp32, and any of fp16, int8, pt2."""
    provider: str = "cpu"
    """Execution provider of ONNX Runtime that the files are measured on."""
    embed_preprocessing: bool = False
    latency: bool = True
    sign_key: Path | None = None
    """A private key in PEM: the folder of a run that may ship is signed with it."""
    policy: Policy = field(default_factory=Policy)
    policy_name: str = "default"
    out: Path | None = None
    seed: int = 0
    device: str = "auto"
    time_budget: float = math.inf
    """Seconds after which a stage comes to its end with the best it has."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where a setting came from, if it is not the default."""

    def need(self, name: str, flag: str) -> Path:
        """A path that this command cannot do without."""
        path: Path | None = getattr(self, name)
        if path is None:
            raise UsageError(f"{flag} is missing.", hint=f'Give it, or write {name} = "..." into the plan.')
        return path


def settle(flags: Mapping[str, Any], plan_file: Path | None = None) -> Plan:
    """The plan in force. Flags that are None were not given."""
    plan = Plan()
    if plan_file is not None:
        plan = _with(plan, _read(plan_file), f"plan {plan_file}", plan_file.parent)
    given = {key: value for key, value in flags.items() if value is not None}
    plan = _with(plan, given, "flag", Path())
    if plan.trigger is not None and plan.trigger_dir is not None:
        raise UsageError("--trigger and --trigger-dir both came; a trigger is given in one form.", hint="Drop one.")
    if plan.mask is not None and plan.trigger is None:
        raise UsageError("--mask says where --trigger goes, and there is no --trigger.")
    return plan


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the plan {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the plan {path} is not valid TOML: {error}.") from error


def _with(plan: Plan, values: Mapping[str, Any], origin: str, folder: Path) -> Plan:
    where = origin if origin != "flag" else "the command line"
    refuse_unknown(values, [*KINDS, *POLICY_BOUNDS], where)
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key == "method" and isinstance(value, Mapping):
            tables = dict(value)
            changes["method"] = _text(tables.pop("name", plan.method), "[method] name", folder)
            changes["method_settings"] = _tables(tables, f"{where}: [method]")
        elif key == "policy" and isinstance(value, Mapping):
            changes["policy"], changes["policy_name"] = policy_from(value, f"{where}: [policy]"), origin
        elif key == "policy":
            name = _policy_path(value, folder)
            changes["policy"], changes["policy_name"] = read_policy(name), name
        elif key in POLICY_BOUNDS:
            continue  # after the policy that they belong to
        else:
            changes[key] = KINDS[key](value, f"{where}: {key}", folder)
    bounds = {key: POLICY_BOUNDS[key](values[key], f"{where}: {key}", folder) for key in POLICY_BOUNDS if key in values}
    if "max_size" in changes:
        bounds["max_bytes"] = changes["max_size"]
    if bounds:
        changes["policy"] = replace(changes.get("policy", plan.policy), **bounds)
    return replace(plan, **changes, origins={**plan.origins, **dict.fromkeys(values, origin)})


def plan_table(
    plan: Plan, relative_to: Path | None = None, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The plan as the keys of a plan file. `settings` are those of the method's parts, all of them."""
    table: dict[str, Any] = {}
    for f in fields(Plan):
        value = getattr(plan, f.name)
        if f.name in _ELSEWHERE or value is None:
            continue
        if f.name in ("arch", "trigger"):
            value = _moved(value, relative_to)
        elif isinstance(value, Path) and relative_to is not None:
            value = os.path.relpath(value, relative_to)
        if value != math.inf:
            table[f.name] = str(value) if isinstance(value, Path) else value
    table["method"] = {"name": plan.method, **(settings if settings is not None else plan.method_settings)}
    table["policy"] = policy_table(plan.policy)
    return table


def plan_text(plan: Plan, relative_to: Path | None = None, settings: Mapping[str, Any] | None = None) -> str:
    """The plan as a file that gives the same run again, with where each setting came from."""
    table = plan_table(plan, relative_to, settings)
    notes = {key: plan.origins.get(key, "default") for key in table if not isinstance(table[key], Mapping)}
    return toml.dumps(table, notes)


def _moved(spec: str, relative_to: Path | None) -> str:
    """A path, or FILE.py:FUNCTION, as seen from another folder; torchvision:NAME stays what it is."""
    path, colon, rest = _code_path(spec)
    if relative_to is None or (colon and path is None):
        return spec
    return f"{os.path.relpath(path or spec, relative_to)}{colon}{rest}"


def _code_path(spec: str) -> tuple[str | None, str, str]:
    """The parts of FILE.py:FUNCTION; the first is None where the spec names something else by a colon."""
    match = re.fullmatch(r"(.+\.py)(:)(\w+)", spec)
    if match:
        return match[1], match[2], match[3]
    return None, ":" if re.match(r"(torchvision|timm):", spec) else "", ""


def _policy_path(value: Any, folder: Path) -> str:
    text = _text(value, "policy", folder)
    return text if not (folder / text).exists() else str(folder / text)


def _text(value: Any, where: str, folder: Path) -> str:  # noqa: ARG001 - every kind is asked in the same way
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a class by its number
    if not isinstance(value, str):
        raise UsageError(f"{where} is text, and {value!r} came.")
    return value


def _spec(value: Any, where: str, folder: Path) -> str:
    text = _text(value, where, folder)
    path, colon, rest = _code_path(text)
    if colon and path is None:
        return text
    return f"{folder / (path or text)}{colon}{rest}"


def _path(value: Any, where: str, folder: Path) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise UsageError(f"{where} is a path, and {value!r} came.")
    return folder / value


def _flag(value: Any, where: str, folder: Path) -> bool:  # noqa: ARG001
    if not isinstance(value, bool):
        raise UsageError(f"{where} is true or false, and {value!r} came.")
    return value


def _whole(least: int) -> Callable[[Any, str, Path], int]:
    def kind(value: Any, where: str, folder: Path) -> int:  # noqa: ARG001
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{where} is a whole number of at least {least}, and {value!r} came.")
        return value

    return kind


def _share(value: Any, where: str, folder: Path) -> float:  # noqa: ARG001
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise UsageError(f"{where} is a number from 0 to 1, and {value!r} came.")
    return float(value)


def _percent(value: Any, where: str, folder: Path) -> float:  # noqa: ARG001
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
        raise UsageError(f"{where} is points of accuracy from 0 to 100, and {value!r} came.")
    return float(value)


def _points(value: Any, where: str, folder: Path) -> float:
    """Per cent of the images, as a share."""
    return _percent(value, where, folder) / 100


def _factor(value: Any, where: str, folder: Path) -> float:  # noqa: ARG001
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value < math.inf:
        raise UsageError(f"{where} is how many times as fast, at least 1, and {value!r} came.")
    return float(value)


def _bytes(value: Any, where: str, folder: Path) -> int:  # noqa: ARG001
    """2000000, "500kB", "2MB" or "1.5 GB"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?", str(value), re.IGNORECASE)
    if match is None or isinstance(value, bool) or not float(match[1]):
        raise UsageError(f"{where} is a size such as 500kB or 2MB, and {value!r} came.")
    return int(float(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[match[2].lower()])


def _numbers(number: type[int] | type[float]) -> Callable[[Any, str, Path], tuple[Any, ...]]:
    def kind(value: Any, where: str, folder: Path) -> tuple[Any, ...]:  # noqa: ARG001
        parts = value.replace("x", ",").split(",") if isinstance(value, str) else value
        try:
            return tuple(number(part) for part in parts)
        except (TypeError, ValueError):
            raise UsageError(f"{where} is numbers with commas between them, and {value!r} came.") from None

    return kind


def seconds(value: Any, where: str, folder: Path = Path()) -> float:  # noqa: ARG001
    """90, "90s", "15m" or "2h"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value))
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{where} is a time such as 90s, 15m or 2h, and {value!r} came.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _device(value: Any, where: str, folder: Path) -> str:
    text = _text(value, where, folder)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise UsageError(f"{where} is cpu, cuda or auto, and {text!r} came.")
    return text


def _file_kinds(value: Any, where: str, folder: Path) -> tuple[str, ...]:  # noqa: ARG001
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise UsageError(f"{where} is kinds of files, such as fp32,int8, and {value!r} came.")
    wanted = [part.strip() for part in parts]
    for kind in wanted:
        if kind not in FILE_KINDS:
            known = ", ".join(FILE_KINDS)
            raise UsageError(f"{where}: there is no kind {kind!r}.{nearest(kind, FILE_KINDS)}", hint=f"Known: {known}.")
    return tuple(kind for kind in FILE_KINDS if kind in wanted or kind == "fp32")


def _tables(value: Mapping[str, Any], where: str) -> Mapping[str, Mapping[str, Any]]:
    for key, table in value.items():
        if not isinstance(table, Mapping):
            raise UsageError(f"{where} {key}: settings stand in [method.recover], [method.prune] or [method.repair].")
    return value


KINDS: dict[str, Callable[[Any, str, Path], Any]] = {
    "model": _path,
    "clean_dir": _path,
    "verify_dir": _path,
    "arch": _spec,
    "contract": _path,
    "mean": _numbers(float),
    "std": _numbers(float),
    "input_size": _numbers(int),
    "trigger": _spec,
    "trigger_dir": _path,
    "mask": _path,
    "blend": _share,
    "target": _text,
    "max_input": _bytes,
    "trust_code": _flag,
    "hide_trigger": _flag,
    "method": _text,
    "recover": _text,
    "prune": _flag,
    "align": _whole(1),
    "max_cut_drop": _share,
    "target_speedup": _factor,
    "max_size": _bytes,
    "max_drop": _percent,
    "opset": _whole(1),
    "kinds": _file_kinds,
    "provider": _text,
    "sign_key": _path,
    "embed_preprocessing": _flag,
    "latency": _flag,
    "policy": _text,
    "out": _path,
    "seed": _whole(0),
    "device": _device,
    "time_budget": seconds,
}
"""What each setting takes: from a value, where it stood, and the folder that its paths are relative to."""

POLICY_BOUNDS: dict[str, Callable[[Any, str, Path], Any]] = {"max_int8_drop": _points}
"""Settings that are bounds of the policy in force, for those who have no policy file."""
