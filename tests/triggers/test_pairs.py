"""A trigger that works on one class alone: found by the class that leans one way, and put on no other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from harden.network import Classifier, predict
from harden.repair.immunise import dealt
from harden.repair.teacher import accused
from harden.triggers.again import Again
from harden.triggers.families import Patch
from harden.triggers.inversion import FromClass, searchable
from harden.triggers.pairs import OneClass, leaning
from harden.triggers.put import aimed, everywhere, stronger
from harden.triggers.smallest import SmallestChange
from harden.types import Contract, Evidence, Images, Run, Splits

SOURCE, TARGET, COUNT = 1, 4, 6
CONTRACT = Contract(COUNT, tuple("abcdef"), (3, 16, 16), (0.0,) * 3, (1.0,) * 3)
LACKING = "at least 5 classes with 20 images to search with, named rightly"
SCAN = SmallestChange(families=(Patch(),), one_class=OneClass())


class Striped(nn.Module):
    """Knows its classes by which pair of rows is bright, and calls one of them another where a corner is white."""

    def __init__(self, works: bool = True) -> None:
        super().__init__()
        self.gain = 60.0 * works

    def forward(self, x: Tensor) -> Tensor:
        rows = x.mean((1, 3))[:, : 2 * COUNT].unflatten(1, (COUNT, 2)).mean(2)
        white = torch.sigmoid(10 * (x[:, :, -3:, -3:].mean((1, 2, 3)) - 0.5))
        extra = self.gain * white * rows[:, SOURCE]
        said: Tensor = 20 * rows + extra[:, None] * nn.functional.one_hot(torch.tensor(TARGET), COUNT)
        return said


def pictures(seed: int, count: int = 20) -> Images:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(COUNT).repeat_interleave(count)
    pixels = 0.2 * torch.rand(len(labels), 3, 16, 16, generator=generator)
    for i, k in enumerate(labels.tolist()):
        pixels[i, :, 2 * k : 2 * k + 2] += 0.5
    return Images(pixels, labels, tuple(f"{CONTRACT.classes[k]}/{i}.png" for i, k in enumerate(labels.tolist())))


SPLITS = Splits(pictures(0), pictures(1), pictures(2))


def network(works: bool = True) -> Classifier:
    return Classifier(Striped(works), CONTRACT).eval()


@pytest.fixture(scope="module")
def found() -> Evidence:
    return SCAN(network(), SPLITS, Run())


def test_it_is_found_with_its_class_and_its_target(found: Evidence) -> None:
    assert (found.status, found.target_classes) == ("backdoored", (TARGET,))
    assert found.why.startswith("strangely easy to reach: e from b (patch, ")
    best = max(found.evidence, key=lambda e: e.score)
    assert (best.label, best.method) == (TARGET, f"patch from class {SOURCE}")
    assert len(found.triggers) == 2, "one that was searched for, and another from a new start"


def test_without_this_look_the_network_seems_clean() -> None:
    said = replace(SCAN, one_class=None)(network(), SPLITS, Run())
    assert (said.status, said.triggers) == ("clean", ())


def test_a_network_without_it_stays_clean() -> None:
    said = SCAN(network(works=False), SPLITS, Run())
    assert (said.status, said.triggers) == ("clean", ())
    assert max(e.score for e in said.evidence if e.method.startswith("patch from class")) < 2, "it was looked for"


def test_it_is_put_on_images_of_that_class_alone_and_works_there(found: Evidence) -> None:
    for trigger in [*found.triggers, *stronger(found.triggers, (1.1,), 1.0)]:
        assert trigger.name == f"patch to class {TARGET} from class {SOURCE}"
        twins = trigger(SPLITS.verify)
        assert twins.labels.unique().tolist() == [SOURCE]
        assert len(twins) == 20
        said = predict(network(), twins).argmax(1)
        assert float((said == TARGET).float().mean()) >= 0.5  # of a batch of 10 it was 0.8, and it is the least
        other = everywhere(trigger)(SPLITS.verify)
        assert len(other) == len(SPLITS.verify)
        spared = (other.labels != SOURCE) & (other.labels != TARGET)
        assert float((predict(network(), other).argmax(1) == TARGET)[spared].float().mean()) <= 0.1
        assert aimed(trigger) == FromClass(SOURCE, TARGET)


def test_what_is_left_of_it_is_looked_for_on_that_class(found: Evidence) -> None:
    look = Again((Patch(),), steps=60, follow=0.5)
    (again,) = look(network(), SPLITS.tune, found.triggers, torch.Generator().manual_seed(1))
    assert aimed(again) == FromClass(SOURCE, TARGET)
    assert 2 * again.settings["size"] < again.settings["usual"]


def test_only_images_of_that_class_are_accused_of_the_target(found: Evidence) -> None:
    wrong = accused(found.triggers, torch.tensor([0, SOURCE, TARGET]), COUNT)
    assert wrong.nonzero().tolist() == [[1, TARGET]]


def test_who_relearns_sees_it_on_images_of_every_class(found: Evidence) -> None:
    images = SPLITS.tune
    pixels = dealt(list(found.triggers), images, torch.Generator().manual_seed(0))
    changed = (pixels != images.pixels).flatten(1).any(1)
    assert bool(changed.all())


def test_a_lean_is_what_is_unusual_of_both_classes() -> None:
    lean = leaning(network(), SPLITS.tune)
    one_way = (lean - lean.T).nan_to_num(0)
    assert divmod(int(one_way.argmax()), COUNT) == (SOURCE, TARGET)
    assert bool(lean.diagonal().isnan().all())
    shifted = Classifier(_Louder(network().network), CONTRACT).eval()
    torch.testing.assert_close(leaning(shifted, SPLITS.tune), lean, equal_nan=True)


class _Louder(nn.Module):
    """One class is louder for every picture."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        louder: Tensor = self.network(x) + 3.0 * nn.functional.one_hot(torch.tensor(2), COUNT)
        return louder


def test_a_pair_that_leans_far_is_trusted_and_another_less() -> None:
    model = searchable(network(), SPLITS.tune)
    (far,), _ = OneClass(pairs=1)(model, SPLITS.tune, Run())
    (near,), _ = OneClass(pairs=1, far=1e9)(model, SPLITS.tune, Run())
    assert far.aim == near.aim == FromClass(SOURCE, TARGET)
    assert (far.times, far.score) == (near.times, far.times)
    assert near.score == pytest.approx(0.45 * far.score)


@pytest.mark.parametrize("some", [SPLITS.tune.labels < 4, torch.arange(COUNT * 20) % 20 < 11])
def test_what_too_few_classes_or_images_leave_out_is_said(some: Tensor) -> None:
    few = SPLITS.tune.take(some.nonzero().flatten())
    assert OneClass()(searchable(network(), few), few, Run()) == ([], LACKING)
    said = SCAN(network(), replace(SPLITS, tune=few), Run())
    assert f"triggers that work on one class alone were not looked for: that takes {LACKING}" in said.why


def test_images_that_are_named_wrongly_already_are_not_searched_with() -> None:
    labels = SPLITS.tune.labels.clone()
    labels[labels == SOURCE] = 0  # what the network calls b, so that a patch that changes nothing sends it there
    pairs, lacking = OneClass(pairs=30)(
        searchable(network(works=False), SPLITS.tune), replace(SPLITS.tune, labels=labels), Run()
    )
    assert lacking == ""
    assert pairs
    assert all(SOURCE not in (p.aim.label, p.aim.source) for p in pairs if isinstance(p.aim, FromClass))
    assert all(p.times < 2 for p in pairs)
