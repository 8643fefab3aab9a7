"""Every method on networks that lack what some methods live by: it works, or it says why not and changes nothing."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harden.bench import cell as bench_cell
from harden.errors import HardenError
from harden.head import NO_HEAD
from harden.methods import METHODS
from harden.network import Classifier, close, predict, units
from harden.triggers.nothing import Nothing
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
    "grad-prune": {"epochs": 1},
    "i-bau": {"rounds": 2},
    "nc-unlearn": {"steps": 2, "epochs": 1},
    "rnp": {"epochs": 1},
    "sau": {"epochs": 2},
    "tsbd": {"epochs": 1},
    "ulrl": {"epochs": 1},
}
NEEDS_HEAD = {"fst", "ulrl"}
NOTHING_FOUND = Evidence("inconclusive", (), (), (), "nothing was found")


def quick(name: str) -> Method:
    """The method, in a moment."""
    return quick_auto() if name == "auto" else METHODS[name](**QUICK.get(name, {}))


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


class NoSlope(Plain):
    """What it says is sound, and the gradient of every weight is not a number."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0 * sum(p.sum() for p in self.parameters())).sqrt()  # type: ignore[union-attr]


class NotANumber(Plain):
    """It says nothing at all."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.nan


def images(seed: int) -> Images:
    """One channel of noise is bright: the class."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat(8)
    pixels = 0.5 * torch.rand(24, 3, 8, 8, generator=g)
    pixels[range(24), labels] += 0.4
    return Images(pixels, labels, tuple(f"{CONTRACT.classes[k]}/{seed}-{i}" for i, k in enumerate(labels.tolist())))


SPLITS = Splits(images(0), images(1), images(2))
NETS: dict[str, type[nn.Module]] = {"no batch norm": Plain, "softmax at the end": Softmax, "no linear head": Headless}
BROKEN: dict[str, type[nn.Module]] = {"NaN as gradients": NoSlope, "NaN as outputs": NotANumber}


def apply(method: Method, model: Classifier) -> tuple[Evidence, dict[str, Any]]:
    """All stages, without surgery: what is guilty is closed."""
    suspect, run = model.copy().eval(), Run()
    evidence = method.recover(model, SPLITS, run)
    if method.prune is not None:
        close(units(model), method.prune(model, SPLITS, evidence, run).guilty)
    return evidence, dict(method.repair(model, suspect, SPLITS, evidence, run)) if method.repair is not None else {}


def made(net: type[nn.Module]) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier(net(), CONTRACT).eval()


def unchanged(model: Classifier, before: list[Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("kind", sorted(NETS))
@pytest.mark.parametrize("name", sorted(METHODS))
def test_it_works_or_says_why_not(name: str, kind: str) -> None:
    model = made(NETS[kind])
    before = [p.detach().clone() for p in model.parameters()]
    evidence, record = apply(quick(name), model)
    assert bool(torch.isfinite(predict(model, SPLITS.verify)).all())
    assert evidence.status in ("backdoored", "clean", "inconclusive")
    if name in NEEDS_HEAD and kind == "no linear head":
        assert record == {"refused": NO_HEAD}
        assert unchanged(model, before)
    elif record:
        assert "finite" not in str(record.get("stopped_because", ""))


@pytest.mark.parametrize("kind", sorted(BROKEN))
@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_is_not_a_number_changes_nothing_and_is_told(name: str, kind: str) -> None:
    model = made(BROKEN[kind])
    before = [p.detach().clone() for p in model.parameters()]
    method, suspect, run = quick(name), model.copy(), Run()
    with suppress(HardenError):  # which is a sentence
        evidence = method.recover(model, SPLITS, run)
        proposal = method.prune(model, SPLITS, evidence, run) if method.prune is not None else None
        record = method.repair(model, suspect, SPLITS, evidence, run) if method.repair is not None else {}
        assert evidence.status != "backdoored" or evidence.triggers or evidence.target_classes
        assert proposal is None or proposal.stopped_because
        assert not record or re.search("finite|nothing", str(record))
    assert unchanged(model, before)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_without_a_suspicion_it_fine_tunes_or_leaves_it_and_says_so(name: str) -> None:
    model, method = made(Plain), quick(name)
    before = [p.detach().clone() for p in model.parameters()]
    searches = not isinstance(method.recover, Nothing)
    if method.prune is not None:
        proposal = method.prune(model, SPLITS, NOTHING_FOUND, Run())
        assert proposal.stopped_because
        assert not (searches and proposal.guilty)
    if method.repair is not None:
        record = method.repair(model, model.copy(), SPLITS, NOTHING_FOUND, Run())
        assert not searches or re.search(r"\bno\b|not", f"{record.get('stopped_because')} {record.get('note')}")
        assert unchanged(model, before) == (searches and name != "ulrl")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_any_method_leaves_dead_is_cut_out_if_asked(name: str, planted: Planted, planted_splits: Splits) -> None:
    method = quick(name)
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
