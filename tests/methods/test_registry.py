"""Every method on networks that lack what some methods live by: it works, or it says why not and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harden.bench import cell as bench_cell
from harden.methods import METHODS
from harden.network import Classifier, close, predict, units
from harden.repair.head import NO_HEAD
from harden.types import Contract, Evidence, Images, Method, Run, Splits
from tests.methods.test_auto import quick as quick_auto
from tests.planted import Planted

CONTRACT = Contract(3, ("a", "b", "c"), (3, 8, 8), (0.5,) * 3, (0.25,) * 3)
QUICK: dict[str, dict[str, Any]] = {
    "anp": {"steps": 3},
    "baerase": {"steps": 2, "probe_steps": 2, "epochs": 1},
    "edit": {"steps": 2, "repair_epochs": 1},
    "fine-pruning": {"epochs": 2},
    "fst": {"epochs": 1},
    "ft": {"epochs": 2},
    "ft-sam": {"epochs": 2},
    "i-bau": {"rounds": 2},
    "nc-unlearn": {"steps": 2, "epochs": 1},
    "rnp": {"epochs": 1},
    "sau": {"epochs": 2},
    "tsbd": {"epochs": 1},
    "ulrl": {"epochs": 1},
}
NEEDS_HEAD = {"fst", "ulrl"}


class Plain(nn.Module):
    """No batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.relu(self.conv(x)).mean((2, 3)))
        return logits


class Softmax(Plain):
    """Probabilities instead of logits."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Headless(nn.Module):
    """Its classifier is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.relu(self.norm(self.conv(x)))).mean((2, 3))
        return logits


def images(seed: int) -> Images:
    """One channel of noise is bright: the class."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat(8)
    pixels = 0.5 * torch.rand(24, 3, 8, 8, generator=g)
    pixels[range(24), labels] += 0.4
    return Images(pixels, labels, tuple(f"{CONTRACT.classes[k]}/{seed}-{i}" for i, k in enumerate(labels.tolist())))


SPLITS = Splits(images(0), images(1), images(2))
NETS: dict[str, type[nn.Module]] = {"no batch norm": Plain, "softmax at the end": Softmax, "no linear head": Headless}


def apply(method: Method, model: Classifier) -> tuple[Evidence, dict[str, Any]]:
    """All stages, without surgery: what is guilty is closed."""
    suspect, run = model.copy().eval(), Run()
    evidence = method.recover(model, SPLITS, run)
    if method.prune is not None:
        close(units(model), method.prune(model, SPLITS, evidence, run).guilty)
    return evidence, dict(method.repair(model, suspect, SPLITS, evidence, run)) if method.repair is not None else {}


@pytest.mark.parametrize("kind", sorted(NETS))
@pytest.mark.parametrize("name", sorted(QUICK))
def test_it_works_or_says_why_not(name: str, kind: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier(NETS[kind](), CONTRACT).eval()
    before = [p.detach().clone() for p in model.parameters()]
    evidence, record = apply(METHODS[name](**QUICK[name]), model)
    assert bool(torch.isfinite(predict(model, SPLITS.verify)).all())
    assert evidence.status in ("backdoored", "clean", "inconclusive")
    if name in NEEDS_HEAD and kind == "no linear head":
        assert record == {"refused": NO_HEAD}
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    elif record:
        assert "finite" not in str(record.get("stopped_because", ""))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_any_method_leaves_dead_is_cut_out_if_asked(name: str, planted: Planted, planted_splits: Splits) -> None:
    method = quick_auto() if name == "auto" else METHODS[name](**QUICK.get(name, {}))
    kept, told = bench_cell.apply(method, planted.suspect, planted_splits, Run())
    cut, told_of_cut = bench_cell.apply(method, planted.suspect, planted_splits, Run(), prune=True)
    widths = [unit.width for unit in units(cut).values()]
    assert sum(widths) == 24 - told_of_cut["filters_removed"]
    assert told_of_cut["filters_removed"] > told.get("filters_removed", 0) or told["filters_removed"] >= 8
    said = [predict(model, planted_splits.choose).argmax(1) for model in (kept, cut)]
    assert int((said[0] == planted_splits.choose.labels).sum()) <= int((said[1] == planted_splits.choose.labels).sum())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_entry_says_what_it_is(name: str) -> None:
    method = METHODS[name]()
    assert method.name == name
    assert method.summary
    assert len(method.summary) < 100
    assert not method.summary.endswith(".")
