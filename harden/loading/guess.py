"""Which architecture a state dict probably belongs to, judged by names and confirmed by fitting every shape.

`architectures.json` maps a hash of an architecture's names of weights to the architectures that have these names.
`python -m harden.loading.guess` writes it anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from harden.errors import HardenError
from harden.loading.architecture import Shapes, architecture
from harden.loading.fit import fit


def guess(given: Shapes) -> str | None:
    """The first known architecture that all weights fit strictly, or None."""
    for spec in candidates(given):
        try:
            fit(architecture(spec), given)
        except HardenError:
            continue
        return spec
    return None


def candidates(given: Shapes) -> list[str]:
    """Architectures whose weights have these names, torchvision's first."""
    return _table().get(fingerprint(given), [])


def fingerprint(names: Iterable[str]) -> str:
    """A hash of the names alone: widths, classes and channels are left to the fit."""
    plain = sorted(n for n in names if not n.endswith("num_batches_tracked") and not n.startswith(("aux", "AuxLogits")))
    return hashlib.sha256("\n".join(plain).encode()).hexdigest()[:16]


@cache
def _table() -> dict[str, list[str]]:
    file = files("harden.loading").joinpath("architectures.json")
    table: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return table


TIMM_FAMILIES = (
    "resnet", "resnext", "wide_resnet", "seresnet", "seresnext", "ecaresnet", "mobilenet", "efficientnet",
    "tf_efficientnet", "repvgg", "regnet", "densenet", "convnext", "ghostnet", "hrnet", "res2net", "res2next",
    "csp", "darknet", "dla", "vgg", "inception", "xception", "nfnet", "dm_nfnet", "eca_nfnet", "mnasnet",
    "semnasnet", "fbnet", "spnasnet", "lcnet", "tinynet", "rexnet", "selecsls", "skresnet", "dpn", "resnest",
    "fastvit", "mobileone", "edgenext", "vovnet", "ese_vovnet", "vit_tiny", "vit_small", "vit_base", "deit",
    "swin_", "mixnet", "hardcorenas", "legacy_", "resnetv2", "starnet",
)  # fmt: skip


def write_table() -> dict[str, list[str]]:
    """The table, made anew from the architectures that are installed."""
    import timm

    from harden.loading.architecture import blueprint, shapes_of, torchvision_names

    specs = [f"torchvision:{name}" for name in torchvision_names()]
    specs += [f"timm:{name}" for name in timm.list_models() if name.startswith(TIMM_FAMILIES)]
    table: dict[str, list[str]] = {}
    for spec in specs:
        try:
            names = shapes_of(blueprint(architecture(spec), 1000))
        except (HardenError, RuntimeError, TypeError, ValueError, AssertionError):
            continue
        table.setdefault(fingerprint(names), []).append(spec)
    return table


if __name__ == "__main__":
    from pathlib import Path

    text = json.dumps(write_table(), indent=0, sort_keys=True)
    Path(__file__).with_name("architectures.json").write_text(text + "\n", encoding="utf-8")
