"""policy.toml: what may ship. Every check says what was observed, what the bound is, and what to do.

    attack success   upper end of the 95 % interval <= bound    passed
                     observed share > bound                     failed
                     between the two                            not decided: more images would decide it
    everything else  observed <= bound                          passed, else failed
    NaN, or nothing measured                                    not decided

What is not decided never passes. The upper end is used because 0 hits of 10 images say almost nothing: they still allow
27.8 %. With n images of other classes than the target, no hit at all allows 3.84 / (n + 3.84):

    n       10      20      30      35      75      200     400
    up to   27.8 %  16.1 %  11.4 %   9.9 %   4.9 %   1.9 %   1.0 %

so the default bound of 10 % can be met from 35 images on (and min_images asks for 50), 5 % from 73.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from harden.errors import UsageError
from harden.spelling import nearest, refuse_unknown
from harden.types import Severity

SEVERITIES: tuple[str, ...] = get_args(Severity)
SOURCES = ("given", "recovered", "probe")
CHECKS = (
    "images",
    "scan",
    "findings",
    "accuracy-drop",
    "class-accuracy-drop",
    "attack-success",
    "onnx-parity",
    "latency",
    "size",
    "int8-accuracy-drop",
    "filters-removed",
)
"""What the judge looks at, under stable names; each attack has its own, such as attack-success/given/sticker."""


@dataclass(frozen=True)
class AttackBounds:
    """The largest share of triggered images that may still fall for each kind of trigger; None: not checked."""

    given: float | None = 0.10
    recovered: float | None = 0.10
    probe: float | None = None
    """An adversarial perturbation moves clean networks too: it is reported, and by default nobody is judged by it."""


@dataclass(frozen=True)
class Waiver:
    """A check that is known to fail and may, for a while."""

    check: str
    """Its name, as in the report."""
    reason: str
    expires: date
    """The last day on which it holds."""


@dataclass(frozen=True)
class Policy:
    """The bounds. None means that nobody asks."""

    max_accuracy_drop: float = 0.02
    """Share of all verify images."""
    max_class_accuracy_drop: float | None = None
    """Of the worst class; a class of 20 images moves by 0.05 with one image."""
    max_attack_success: AttackBounds = field(default_factory=AttackBounds)
    attack_success_by: Literal["upper", "observed"] = "upper"
    """Which number is held against the bound: the upper end of the interval, or the share as observed."""
    min_images: int = 50
    """Fewer verify images decide nothing."""
    max_parity_error: float = 1e-4
    """Largest difference between the file's logits and the module's, as a share of the largest logit."""
    max_finding_severity: Severity = "medium"
    """A worse finding about the file that came fails."""
    max_int8_drop: float | None = None
    """Of accuracy, from the fp32 to the int8 file."""
    max_latency_ratio: float | None = None
    """Median of the hardened file over the original's, one image, one thread."""
    max_bytes: int | None = None
    """Of the largest file that ships."""
    max_filters_removed: float | None = None
    """Share of all filters."""
    when_inconclusive: Literal["fail", "inconclusive"] = "inconclusive"
    waivers: tuple[Waiver, ...] = ()


READY: dict[str, Policy] = {
    "lenient": Policy(
        max_accuracy_drop=0.05,
        max_attack_success=AttackBounds(given=0.20, recovered=0.20),
        attack_success_by="observed",
        min_images=20,
        max_finding_severity="high",
    ),
    "default": Policy(),
    "strict": Policy(
        max_accuracy_drop=0.01,
        max_class_accuracy_drop=0.05,
        max_attack_success=AttackBounds(given=0.05, recovered=0.05),
        min_images=200,
        max_finding_severity="low",
        when_inconclusive="fail",
    ),
}
"""By name, wherever a policy file may be given."""

_SHARES = ("max_accuracy_drop", "max_class_accuracy_drop", "max_int8_drop", "max_filters_removed")


def read_policy(where: str | Path | None) -> Policy:
    """The policy in this file, or the ready one of this name; the default one for None."""
    if where is None:
        return READY["default"]
    if str(where) in READY:
        return READY[str(where)]
    path = Path(where)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(
            f"the policy {path} cannot be read: {reason}.{nearest(str(where), READY)}",
            hint=f"Give a file, or one of {', '.join(READY)}; `harden policy init` writes one to start from.",
        ) from error
    return parse_policy(text, str(path))


def parse_policy(text: str, name: str = "the policy") -> Policy:
    """Reads and checks the text of a policy.toml."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name} is not valid TOML: {error}.") from error
    return policy_from(table, name)


def policy_from(table: Mapping[str, Any], name: str = "the policy") -> Policy:
    """A policy from the keys of a TOML table; what is left out keeps its default."""
    known = [f.name for f in fields(Policy) if f.name != "waivers"]
    refuse_unknown(table, [*known, "waiver"], name)
    values: dict[str, Any] = {key: _checked(key, value, name) for key, value in table.items() if key != "waiver"}
    values["waivers"] = tuple(_waiver(entry, name) for entry in table.get("waiver", ()))
    return replace(Policy(), **values)


def _checked(key: str, value: Any, name: str) -> Any:
    default = getattr(Policy(), key)
    if key == "max_attack_success":
        return _attack_bounds(value, name)
    choices = {
        "attack_success_by": ("upper", "observed"),
        "when_inconclusive": ("fail", "inconclusive"),
        "max_finding_severity": SEVERITIES,
    }.get(key)
    if choices is not None:
        if value not in choices:
            raise UsageError(f"{name}: {key} is one of {', '.join(choices)}, and {value!r} came.")
        return value
    if key in _SHARES:
        return _share(key, value, name)
    whole = key in ("min_images", "max_bytes")
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise UsageError(f"{name}: {key} is a {'whole ' if whole else ''}number of at least 0, and {value!r} came.")
    return float(value) if isinstance(default, float) else value


def _share(key: str, value: Any, name: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        hint = f"Write {value / 100:g} for {value:g} %." if number and 1 < value <= 100 else ""
        raise UsageError(f"{name}: {key} is a share from 0 to 1, and {value!r} came.", hint=hint)
    return float(value)


def _attack_bounds(value: Any, name: str) -> AttackBounds:
    if not isinstance(value, Mapping):
        bound = _share("max_attack_success", value, name)
        return AttackBounds(given=bound, recovered=bound)
    refuse_unknown(value, SOURCES, f"{name}: max_attack_success")
    return replace(
        AttackBounds(), **{source: _share(f"max_attack_success.{source}", v, name) for source, v in value.items()}
    )


def _waiver(entry: Any, name: str) -> Waiver:
    keys = [f.name for f in fields(Waiver)]
    if not isinstance(entry, Mapping):
        raise UsageError(f"{name}: a waiver is a table: [[waiver]] with {', '.join(keys)}.")
    refuse_unknown(entry, keys, f"{name}: [[waiver]]")
    missing = [key for key in keys if not entry.get(key)]
    if missing:
        raise UsageError(f"{name}: a waiver needs {', '.join(keys)}; {', '.join(missing)} is missing.")
    expires = _day(entry["expires"])
    if expires is None or not isinstance(entry["check"], str) or not isinstance(entry["reason"], str):
        raise UsageError(f"{name}: in [[waiver]], expires is a date such as 2027-01-31, check and reason are text.")
    refuse_unknown([entry["check"].split("/")[0]], CHECKS, f"{name}: [[waiver]]", "check")
    return Waiver(entry["check"], entry["reason"], expires)


def _day(value: Any) -> date | None:
    """A date of TOML, or the same as text, as report.json has it; a time of day would say more than is meant."""
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            return None
    return value if isinstance(value, date) and not isinstance(value, datetime) else None


def policy_table(policy: Policy) -> dict[str, Any]:
    """The policy as the keys of a policy.toml; what is None is left out, since TOML has no word for it."""
    table = {f.name: getattr(policy, f.name) for f in fields(Policy) if f.name != "waivers"}
    bounds = policy.max_attack_success
    table["max_attack_success"] = {s: getattr(bounds, s) for s in SOURCES if getattr(bounds, s) is not None}
    found = {key: value for key, value in table.items() if value is not None}
    if policy.waivers:
        found["waiver"] = [{"check": w.check, "reason": w.reason, "expires": w.expires} for w in policy.waivers]
    return found
