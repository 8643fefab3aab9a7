"""Holds weights against an architecture: what it must be built with, or the sentence that says why it cannot be.

Everything is decided on shapes, before any memory is spent on the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from harden.errors import Mismatch
from harden.loading.architecture import Architecture, Shapes, blueprint, shapes_of

SHOWN = 5
"""Differences that a message names before it only counts them."""
_AUXILIARY = ("aux", "AuxLogits")


@dataclass(frozen=True)
class Fit:
    """How to build an architecture so that the weights go in strictly."""

    num_classes: int | None
    in_channels: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    """What the weights' names have in front and the architecture's have not."""

    def rename(self, name: str) -> str:
        return name.removeprefix(self.prefix)


def fit(arch: Architecture, given: Shapes, num_classes: int | None = None) -> Fit:
    """Finds the number of classes, the channels and the variant; Mismatch with a likely cause where none fits."""
    start = num_classes if num_classes is not None else last_width(given)
    closest: tuple[int, Shapes, Shapes] | None = None
    for options in _variants(arch, given):
        for prefix in _prefixes(given):
            attempt = Fit(start, first_channels(given) if arch.is_code else None, options, prefix)
            names = {attempt.rename(name): shape for name, shape in given.items()}
            for _ in range(3):  # classes and channels may both have to be found
                expected = shapes_of(blueprint(arch, attempt.num_classes, attempt.in_channels, **options))
                if not list(differences(names, expected)):
                    return attempt
                better = _adapted(attempt, names, expected, fixed=num_classes is not None)
                if better == attempt:
                    break
                attempt = better
            distance = len(list(differences(names, expected)))
            if closest is None or distance < closest[0]:
                closest = (distance, names, expected)
    assert closest is not None
    raise mismatch(arch.spec, closest[1], closest[2])


def differences(given: Shapes, expected: Shapes) -> Iterator[str]:
    """Every way in which a strict load would fail, in words."""
    for name, shape in expected.items():
        if name not in given:
            if not name.endswith("num_batches_tracked"):
                yield f"{name} is missing, and {list(shape)} is expected"
        elif tuple(given[name]) != tuple(shape):
            yield f"{name} has the shape {list(given[name])}, and {list(shape)} is expected"
    for name, shape in given.items():
        if name not in expected:
            yield f"{name} {list(shape)} is not part of the architecture"


def mismatch(spec: str, given: Shapes, expected: Shapes) -> Mismatch:
    """The error that names the first differences and guesses why."""
    found = list(differences(given, expected))
    lines = "\n".join(f"  {line}" for line in found[:SHOWN])
    more = f"\n  and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    total = len({*given, *expected})
    return Mismatch(
        f"the weights do not fit {spec}: {len(found)} of {total} entries differ.\n{lines}{more}",
        hint=likely_cause(given, expected),
    )


def likely_cause(given: Shapes, expected: Shapes) -> str:
    """One sentence on what is probably behind the differences."""
    missing, unexpected = set(expected) - set(given), set(given) - set(expected)
    missing = {name for name in missing if not name.endswith("num_batches_tracked")}
    shared = set(given) & set(expected)
    reshaped = [(tuple(expected[n]), tuple(given[n])) for n in expected if n in shared and given[n] != expected[n]]
    if not missing and unexpected and all(name.startswith(_AUXILIARY) for name in unexpected):
        return "the weights bring auxiliary heads that the architecture is built without; build it with them"
    if not unexpected and missing and all(name.startswith(_AUXILIARY) for name in missing):
        return "the weights come without auxiliary heads; build the architecture without them"
    if not missing and not unexpected and reshaped:
        heads = {(e[0], g[0]) for e, g in reshaped if e[1:] == g[1:]}
        if len(heads) == 1 and len(reshaped) <= 2:
            (expected_classes, classes), *_ = heads
            return (
                f"the weights are made for {classes} classes and not for {expected_classes}: "
                "correct num_classes or classes in the contract"
            )
        ratios = {g[0] / e[0] for e, g in reshaped if e[0]}
        if len(ratios) <= 2:
            return f"the same architecture in another width (about {max(ratios):g} times): name the one with this width"
        return "the same names in other shapes: probably a sibling of this architecture in another width or size"
    wrapped = _common_prefix(given)
    if missing and unexpected and wrapped and {name.removeprefix(wrapped) for name in given} & set(expected):
        return f"most names begin with {wrapped!r}: the network was wrapped when it was saved, or has further parts"
    if missing and unexpected and not shared:
        return "no name is shared: this is another architecture"
    if unexpected and not missing:
        return f"the file holds {len(unexpected)} entries more: another architecture, or a part added to this one"
    if missing and not unexpected:
        return f"the file holds {len(missing)} entries less: a shallower architecture, or a cut-off checkpoint"
    return f"{len(shared)} names are shared: probably a sibling of this architecture; `harden inspect` makes a guess"


def last_width(given: Shapes) -> int | None:
    """Rows of the last matrix, which is where the classes are in almost every classifier."""
    matrices = [shape for name, shape in given.items() if len(shape) == 2 and not name.startswith(_AUXILIARY)]
    if matrices:
        return matrices[-1][0]
    kernels = [shape for shape in given.values() if len(shape) == 4]
    return kernels[-1][0] if kernels else None


def first_channels(given: Shapes) -> int | None:
    """Channels that the first convolution takes, for functions that want to be told."""
    return next((shape[1] for shape in given.values() if len(shape) == 4), None)


def _variants(arch: Architecture, given: Shapes) -> list[dict[str, Any]]:
    if arch.spec in ("torchvision:googlenet", "torchvision:inception_v3"):
        return [{"aux_logits": any(name.startswith(_AUXILIARY) for name in given)}]
    return [{}]


def _prefixes(given: Shapes) -> list[str]:
    common = _common_prefix(given)
    return ["", common] if common else [""]


def _common_prefix(given: Shapes) -> str:
    """The first step of the names where all have the same."""
    firsts = {name.partition(".")[0] for name in given}
    return f"{firsts.pop()}." if len(firsts) == 1 and all("." in name for name in given) else ""


def _adapted(attempt: Fit, given: Shapes, expected: Shapes, *, fixed: bool) -> Fit:
    """The same attempt with the classes and channels that the weights show."""
    classes, channels = attempt.num_classes, attempt.in_channels
    first = next((n for n, shape in expected.items() if len(shape) == 4), None)
    for name, shape in expected.items():
        came = given.get(name)
        if came is None or came == shape or len(came) != len(shape):
            continue
        if name == first and came[1] != shape[1] and came[0] == shape[0] and came[2:] == shape[2:]:
            channels = came[1]
        elif not fixed and came[1:] == shape[1:] and shape[0] == (classes or shape[0]):
            classes = came[0]
    return Fit(classes, channels, attempt.options, attempt.prefix)
