"""Relearning forgets the stand-ins and nothing else; augmentations go as far as the network itself allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harden.network import Classifier, close, predict, units
from harden.repair import immunise
from harden.repair.augment import CropAndFlip, mixed, tolerated, turned
from harden.repair.immunise import Immunise, dealt, held
from harden.repair.regain import Regain
from harden.repair.teacher import Teacher, accused
from harden.repair.train import Schedule, fit
from harden.triggers.again import Again
from harden.triggers.families import Additive, Family, Patch, Veil
from harden.triggers.inversion import Aim, ToClass, ToNext
from harden.triggers.put import as_trigger
from harden.types import Contract, Evidence, Filter, Images, Run, Splits, Trigger
from tests.planted import TARGET, Planted, pictures, stamp

TO_TARGET, PATCH = ToClass(TARGET), Patch()
QUICK = Immunise(Schedule(epochs=4, batch=20, rate=5e-3, clip=1.0, freeze_norm=True))


def attacked_loss(model: Classifier, images: Images) -> float:
    return float(nn.functional.cross_entropy(predict(model, stamp(images.pixels)), images.labels))


def accuracy(model: Classifier, images: Images) -> float:
    return float((predict(model, images).argmax(1) == images.labels).float().mean())


def small_patch(aim: Aim = TO_TARGET, family: Family = PATCH) -> Trigger:
    """A recovered stand-in that changes next to nothing."""
    change = family.start((3, 16, 16), torch.Generator().manual_seed(0), torch.device("cpu"))
    for parameter in change.parameters:
        parameter.requires_grad_(False)
    return as_trigger(family, aim, change, {"size": 50.0, "usual": 100.0})


def test_forgets_the_stand_in_and_keeps_the_accuracy(planted: Planted, planted_splits: Splits) -> None:
    model = planted.model.copy()
    notes = QUICK(model, planted.model, planted_splits, planted.evidence, Run())
    verify = planted_splits.verify
    assert attacked_loss(model, verify) < 0.7 * attacked_loss(planted.model, verify)
    assert accuracy(model, verify) >= 0.95
    assert (notes["epochs"], notes["stand_ins"], notes["recovered"]) == (8, 1, 1), "twice 4: nothing was cut"


@pytest.mark.parametrize(
    ("norm", "optimizer"), [(nn.Identity(), "adam"), (nn.BatchNorm2d(4), "sgd"), (nn.GroupNorm(2, 4), "sgd")]
)
def test_where_nothing_normalises_the_size_of_a_gradient_means_nothing(
    planted: Planted, planted_splits: Splits, norm: nn.Module, optimizer: str
) -> None:
    layers = nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    model = Classifier(nn.Sequential(*layers), planted.model.contract).eval()
    usual, bare = (replace(s, epochs=1, least_steps=1) for s in (Immunise().schedule, Immunise().bare))
    short = replace(QUICK, schedule=usual, bare=bare)
    notes = short(model, model.copy(), planted_splits, planted.evidence, Run())
    assert notes["schedule"]["optimizer"] == optimizer


@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm2d(4)])
def test_nothing_is_left_out_by_chance_while_it_relearns(
    planted: Planted, planted_splits: Splits, norm: nn.Module
) -> None:
    thinned, dropout = [], nn.Dropout(0.5)
    dropout.register_forward_hook(lambda layer, *_: thinned.append(layer.training))
    layers = nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), dropout, nn.Linear(4, 3)
    model = Classifier(nn.Sequential(*layers), planted.model.contract).eval()
    usual, bare = (replace(s, epochs=1, least_steps=1) for s in (Immunise().schedule, Immunise().bare))
    replace(QUICK, schedule=usual, bare=bare)(model, model.copy(), planted_splits, planted.evidence, Run())
    assert thinned
    assert not any(thinned)


def test_what_is_closed_stays_closed(planted: Planted, planted_splits: Splits) -> None:
    model, shut = planted.model.copy(), [Filter("conv1", 2), Filter("conv2", 6)]
    close(units(model), shut)
    before = [p.clone() for p in model.parameters()]
    QUICK(model, planted.model, planted_splits, planted.evidence, Run())
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    parts = units(model)
    assert not any(bool(p[f.index].any()) for f in shut for p in parts[f.layer].parameters())


@pytest.mark.parametrize("status", ["clean", "inconclusive", "backdoored"])
def test_nothing_without_a_backdoor_or_without_a_trigger(planted: Planted, planted_splits: Splits, status: str) -> None:
    model = planted.model.copy()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    triggers = () if status == "backdoored" else planted.evidence.triggers
    evidence = Evidence(status, (), (), triggers)  # type: ignore[arg-type]
    assert QUICK(model, planted.model, planted_splits, evidence, Run())["epochs"] == 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_it_learns_from_the_images_for_choosing_as_well(planted: Planted, planted_splits: Splits) -> None:
    weights = []
    for choose in (planted_splits.choose, planted_splits.choose.take(torch.arange(0))):
        model = planted.model.copy()
        splits = replace(planted_splits, choose=choose)
        replace(QUICK)(model, planted.model, splits, planted.evidence, Run())
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert not torch.equal(*weights)


def test_only_stand_ins_are_forbidden_the_target(
    planted: Planted, planted_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(immunise, "dealt", lambda *dealt: torch.zeros_like(dealt[1].pixels))

    def noted(*called: Any) -> torch.Tensor:
        seen.append(called[0].detach())
        return torch.zeros(())

    monkeypatch.setattr(immunise, "held", noted)
    QUICK(planted.model.copy(), planted.model, planted_splits, planted.evidence, Run())
    assert seen
    for logits in seen:  # stand-ins are all the same black picture here, clean images are not
        torch.testing.assert_close(logits, logits[:1].expand_as(logits))


def test_mixed_images_are_named_by_the_suspect_and_not_by_their_labels(
    planted: Planted, planted_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(method: Immunise, picture: float) -> Tensor:
        monkeypatch.setattr(immunise, "mixed", lambda pixels, *_: torch.full_like(pixels, picture))
        model = planted.model.copy()
        method(model, planted.model, planted_splits, planted.evidence, Run())
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    only_labels, unmixed = replace(QUICK, distil=0.0), replace(QUICK, few=0.0, own=0.0)
    torch.testing.assert_close(weights(only_labels, 0.0), weights(only_labels, 1.0))
    assert not torch.equal(weights(QUICK, 0.0), weights(QUICK, 1.0))
    assert torch.equal(weights(unmixed, 0.0), weights(unmixed, 1.0))


def test_a_mixture_lies_between_two_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, others = torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    seen = mixed(pixels, others, generator)
    assert seen.shape == pixels.shape
    assert bool(((seen > 0) & (seen < 1)).all())
    assert len(seen.flatten(1).unique(dim=1)[0]) == 1
    assert len(seen[:, 0, 0, 0].unique()) == 3, "each has a share of its own"


def test_pictures_are_turned_stretched_and_moved_each_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.zeros(6, 1, 9, 9)
    pictures[:, :, 2:7, 4] = 1.0  # an upright bar through the middle
    torch.testing.assert_close(turned(pictures, generator, 0.0, 0.0, 0.0), pictures)
    by_turn = turned(pictures, generator, 0.5, 0.0, 0.0)
    torch.testing.assert_close(by_turn[:, :, 4, 4], pictures[:, :, 4, 4])  # the middle stays
    assert bool((by_turn[:, :, 2, 4] < 0.9).any()), "the ends do not"
    by_stretch, by_shift = turned(pictures, generator, 0.0, 0.4, 0.0), turned(pictures, generator, 0.0, 0.0, 0.5)
    middle = torch.tensor([4.0])
    rows = torch.arange(9.0)

    def centre(x: torch.Tensor) -> torch.Tensor:
        return (x.sum(3) * rows).sum((1, 2)) / x.sum((1, 2, 3))

    torch.testing.assert_close(centre(by_stretch), middle.expand(6))
    assert float((centre(by_shift) - middle).abs().max()) > 0.5
    for changed in (by_turn, by_stretch, by_shift):
        assert len(changed.flatten(1).unique(dim=0)) == 6


def test_half_of_the_strange_pictures_are_turned_and_through_half_another_one_shines() -> None:
    pixels = torch.linspace(0.1, 0.9, 8).view(8, 1, 1, 1).expand(8, 3, 8, 8)
    plain = Regain(contrast=0.0, brightness=0.0, padding=0).strange(pixels, torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain[:4], pixels[:4])  # each is of one colour, and stays that when it is turned
    one, other = pixels[4:], pixels[[7, 4, 5, 6]]
    share = (plain[4:] - other) / (one - other)
    torch.testing.assert_close(share, share[:, :1, :1, :1].expand_as(share))
    assert bool(((share >= 0) & (share <= 1)).all())
    assert len(share[:, 0, 0, 0].unique()) == 4
    seen = Regain().strange(pixels, torch.Generator().manual_seed(0))
    assert bool(((seen >= 0) & (seen <= 1)).all())
    assert bool((seen[:4].std((2, 3)) < 1e-6).all()), "turned and recoloured: still of one colour"
    assert bool((seen[4:].std((2, 3)) > 1e-3).any()), "moved within a black border"


def test_stand_ins_are_looked_for_again_and_join_the_pool(planted: Planted, planted_splits: Splits) -> None:
    evidence = Evidence("backdoored", (TARGET,), (), (small_patch(),))
    again = Again(families=(Patch(),), steps=2, within=2.0)
    for alive, epochs in ((2.0, 4), (0.0, 8)):  # closed by the cuts, or in force: as many searches in twice as many
        counts = []
        for every in (0, 2, 1):
            quick = replace(QUICK, first=again, again=again, every=every, stronger=(), alive=alive, lost=1.0)
            notes = quick(planted.model.copy(), planted.model, planted_splits, evidence, Run())
            counts.append(notes["stand_ins"])
            assert notes["epochs"] == epochs
        assert counts == [1, 3, 5], "never; before the first and half of the way on; four times"
    deaf = replace(again, follow=1.1)  # so many never follow
    for first, later, count in ((deaf, again, 4), (again, deaf, 2)):
        quick = replace(QUICK, first=first, again=later, every=1, stronger=())
        notes = quick(planted.model.copy(), planted.model, planted_splits, evidence, Run())
        assert notes["stand_ins"] == count
    twice = replace(QUICK, every=0, stronger=(1.5,))
    assert twice(planted.model.copy(), planted.model, planted_splits, evidence, Run())["stand_ins"] == 2


def test_what_is_held_in_reserve_stands_in_where_the_backdoor_outlived_the_cuts(
    planted: Planted, planted_splits: Splits
) -> None:
    evidence = Evidence("backdoored", (TARGET,), (), (small_patch(),), reserve=(small_patch(),))
    again = Again(families=(Patch(),), steps=2, within=2.0, known=True)
    for alive, lost, recovered, stand_ins in ((2.0, 1.0, 1, 2), (0.0, 1.0, 2, 5), (0.0, -1.0, 2, 5)):  # -1: begun anew
        quick = replace(QUICK, first=again, again=again, both=again, every=4, stronger=(), alive=alive, lost=lost)
        notes = quick(planted.model.copy(), planted.model, planted_splits, evidence, Run())
        assert (notes["recovered"], notes["stand_ins"]) == (recovered, stand_ins), "each is looked for again as well"


def test_each_and_what_is_held_in_reserve_are_looked_for_in_both_networks_together(
    planted: Planted, planted_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence = Evidence("backdoored", (TARGET,), (), (small_patch(),), reserve=(small_patch(),))
    looked: list[tuple[Again, list[Trigger]]] = []
    apart: list[list[bool]] = []
    model, suspect = planted.model.copy(), planted.model
    some = planted_splits.tune.take(torch.arange(8))

    def noted(
        self: Again, where: Classifier, _: Images, triggers: Sequence[Trigger], __: torch.Generator
    ) -> list[Trigger]:
        looked.append((self, list(triggers)))
        said, one, other = (predict(network, some) for network in (where, suspect, model))
        halves = (said[:4], one[:4]), (said[4:], other[4:])
        apart.append([torch.allclose(half, wanted, atol=1e-3) for half, wanted in halves])
        return []

    monkeypatch.setattr(Again, "__call__", noted)
    quick = replace(QUICK, every=2, alive=0.0, lost=1.0)
    quick(model, suspect, planted_splits, evidence, Run())
    first = list(evidence.triggers)
    every = [*evidence.reserve, *first]
    assert looked == [(quick.first, first), (quick.both, every), (quick.again, first), (quick.both, every)]
    assert apart == [[True, True], [True, True], [False, True], [True, True]]


@pytest.mark.parametrize(("alive", "family", "both"), [(0.0, Veil(), 2), (2.0, Veil(), 0), (0.0, Patch(), 2)])
def test_they_are_looked_for_in_both_networks_as_well_only_where_the_backdoor_is_in_force(
    planted: Planted, planted_splits: Splits, monkeypatch: pytest.MonkeyPatch, alive: float, family: Family, both: int
) -> None:
    evidence = Evidence("backdoored", (TARGET,), (), (small_patch(family=family),))
    looked: list[Again] = []

    def noted(self: Again, *_: object) -> list[Trigger]:
        looked.append(self)
        return []

    monkeypatch.setattr(Again, "__call__", noted)
    quick = replace(QUICK, every=2, alive=alive, lost=1.0)
    quick(planted.model.copy(), planted.model, planted_splits, evidence, Run())
    assert (looked.count(quick.first), looked.count(quick.again), looked.count(quick.both)) == (1, 1, both)


def test_of_pictures_of_the_accused_class_the_suspect_is_asked_where_the_backdoor_outlived_the_cuts(
    planted: Planted, planted_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Tensor] = []

    def noted(pixels: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
        asked.append(pixels)
        return mixed(pixels, others, generator)

    monkeypatch.setattr(immunise, "mixed", noted)
    images = planted_splits.tune
    splits = replace(planted_splits, choose=images.take(torch.arange(0)))
    of_target = images.pixels[images.labels == TARGET]
    for alive, evidence, some in (
        (0.0, planted.evidence, True),
        (2.0, planted.evidence, False),
        (0.0, replace(planted.evidence, triggers=(small_patch(ToNext(3)),)), False),  # each class is accused
    ):
        asked.clear()
        replace(QUICK, every=0, few=0.0, alive=alive)(planted.model.copy(), planted.model, splits, evidence, Run())
        found = [pixels for pixels in asked if len(pixels)]
        assert bool(found) == some
        for pixels in found:
            assert len(pixels) == QUICK.schedule.batch // 2
            assert bool((pixels[:, None] == of_target).flatten(2).all(2).any(1).all())


def test_what_the_suspect_says_of_these_pictures_is_learned_as_much_as_it_counts(
    planted: Planted, planted_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(own: float, lowered: Callable[[Teacher, Tensor], Tensor]) -> Tensor:
        monkeypatch.setattr(Teacher, "lowered", lowered)
        model = planted.model.copy()
        quick = replace(QUICK, every=0, alive=0.0, far=1.0, own=own)
        quick(model, planted.model, planted_splits, planted.evidence, Run())
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    told = Teacher.lowered
    assert not torch.equal(weights(2.0, told), weights(2.0, lambda self, pixels: -told(self, pixels)))
    torch.testing.assert_close(weights(0.0, told), weights(0.0, lambda self, pixels: -told(self, pixels)))


@pytest.mark.parametrize(("works", "times"), [(True, 1.7), (True, 1.5), (False, 1.7)])
def test_a_backdoor_that_only_the_reserve_knows_to_be_in_force_is_in_force_if_it_is_small_enough_to_tell(
    planted: Planted, planted_splits: Splits, works: bool, times: float
) -> None:
    evidence = Evidence("backdoored", (TARGET,), (), (small_patch(),))
    held = planted.evidence.triggers if works else (small_patch(),)
    reserve = tuple(replace(t, settings={**t.settings, "size": 2.0, "usual": 2.0 * times}) for t in held)
    usual, longer = (
        replace(QUICK, every=0)(planted.model.copy(), planted.model, planted_splits, some, Run())["epochs"]
        for some in (evidence, replace(evidence, reserve=reserve))
    )
    assert (usual, longer) == (4, 8 if works and times > 1.6 else 4)


def test_the_weights_go_back_a_part_of_the_way(planted: Planted, planted_splits: Splits) -> None:
    went = {}
    for rise, way in ((1e9, 0.25), (-1.0, 1.0)):  # nothing is too much; anything is
        model = planted.model.copy()
        quick = replace(QUICK, ways=(0.5, 0.25), rise=rise, alive=2.0)
        assert quick(model, planted.model, planted_splits, planted.evidence, Run())["way"] == way
        went[way] = model.state_dict()
    before = planted.model.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in went[1.0].items())
    for name, value in went[0.25].items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * went[1.0][name])


def test_what_is_far_enough_elsewhere_is_not_where_the_backdoor_outlived_the_cuts(
    planted: Planted, planted_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No filter was cut here, so the stand-in works as well as ever when relearning begins."""
    ways, went = {}, []

    def noted(*args: Any, **settings: Any) -> dict[str, Any]:
        went.append((args[3].clip, args[3].epochs))
        return fit(*args, **settings)

    monkeypatch.setattr(immunise, "fit", noted)
    for alive in (Immunise().alive, 2.0):
        quick = replace(QUICK, ways=(0.25,), rise=1e9, back=(), alive=alive, lost=1.0)
        notes = quick(planted.model.copy(), planted.model, planted_splits, planted.evidence, Run())
        ways[alive] = notes["way"]
    assert list(ways.values()) == [1.0, 0.25]
    usual = QUICK.schedule
    assert went == [(10 * usual.clip, 2 * usual.epochs), (usual.clip, usual.epochs)], "a long way: more steps, longer"


@pytest.mark.parametrize(("hardly", "way"), [(1e9, 0.25), (-1.0, 1.0)])
def test_a_little_goes_back_where_the_backdoor_outlived_the_cuts(
    planted: Planted, planted_splits: Splits, hardly: float, way: float
) -> None:
    quick = replace(QUICK, every=0, ways=(0.5,), rise=1e9, back=(0.25,), hardly=hardly, lost=1.0)
    assert quick(planted.model.copy(), planted.model, planted_splits, planted.evidence, Run())["way"] == way


def test_steps_that_led_astray_are_taken_back_and_shortened(
    planted: Planted, planted_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    went = []

    def noted(model: Classifier, *args: Any, **settings: Any) -> dict[str, Any]:
        start = accuracy(model, planted_splits.tune)
        record = fit(model, *args, **settings)
        went.append((args[2].clip, start, accuracy(model, planted_splits.tune) > 0.9))
        return record

    monkeypatch.setattr(immunise, "fit", noted)
    model = planted.model.copy()
    quick = replace(QUICK, far=1e4)
    quick(model, planted.model, planted_splits, planted.evidence, Run())
    assert went == [(1e4 * QUICK.schedule.clip, 1.0, False), (QUICK.schedule.clip, 1.0, True)]
    assert accuracy(model, planted_splits.verify) >= 0.95


def test_of_two_targets_it_is_enough_that_the_stand_ins_of_one_outlived_the_cuts(
    planted: Planted, planted_splits: Splits
) -> None:
    """On average hardly any image follows these ten."""
    works, idle = planted.evidence.triggers, tuple(small_patch(ToClass((TARGET + 1) % 3)) for _ in range(9))
    for triggers, epochs in ((works, 8), (idle, 4), ((*works, *idle), 8)):
        evidence = replace(planted.evidence, triggers=triggers)
        quick = replace(QUICK, every=0, stronger=(), alive=0.5, lost=1.0)
        assert quick(planted.model.copy(), planted.model, planted_splits, evidence, Run())["epochs"] == epochs


@pytest.mark.parametrize(("rise", "way"), [(0.0, 1.0), (0.6, 0.75), (1.5, 0.5)])
def test_not_so_far_back_that_the_stand_ins_notice(planted: Planted, rise: float, way: float) -> None:
    model, before = planted.model.copy(), {k: v.clone() for k, v in planted.model.state_dict().items()}
    weight = next(model.parameters())
    with torch.no_grad():
        weight.add_(1.0)
    start, gone = before[next(iter(dict(model.named_parameters())))], weight.detach().clone()

    def said() -> Tensor:
        """Of one target 1 at the end and 3 at the start, of the other 9 all of the way."""
        moved: Tensor = (weight.detach() - start).mean()
        return torch.stack([-2 * moved + 3, torch.tensor(9.0)])

    assert immunise.settle(model, before, (0.75, 0.5), rise, said) == way
    torch.testing.assert_close(weight.detach(), start + way * (gone - start))


def aimed_at(target: int | None, moved: ToNext | None = None) -> Trigger:
    return Trigger("-", "recovered", target, lambda images: images, moved=moved)


def test_what_it_costs_to_say_an_accused_class_by_the_formula() -> None:
    logits, labels = torch.tensor([[2.0, 0, 0], [0.0, 1, 0], [9.0, 0, 0]]), torch.tensor([1, 2, 0])
    wrong = accused([aimed_at(0)], labels, 3)
    said = logits.softmax(1)[:2, 0]
    torch.testing.assert_close(held(logits, wrong), -(1 - said).log().mean())
    assert float(held(logits, accused([aimed_at(0)], torch.zeros(3).long(), 3))) == 0, "all are of the target class"
    assert float(held(logits, accused([], labels, 3))) == 0
    onward = torch.stack([logits[0].softmax(0)[2], logits[1].softmax(0)[0], logits[2].softmax(0)[1]])
    torch.testing.assert_close(
        held(logits, accused([aimed_at(None, ToNext(3))], labels, 3)), -(1 - onward).log().mean()
    )


def test_every_image_is_dealt_one_trigger_of_the_pool() -> None:
    def lifted(by: float) -> Callable[[Images], Images]:
        return lambda images: Images(images.pixels + by, images.labels, images.names)

    def half(images: Images) -> Images:
        return images.take(torch.arange(len(images) // 2))

    pool = [
        Trigger("one", "probe", 0, lifted(1)),
        Trigger("two", "probe", 0, lifted(2)),
        Trigger("-", "probe", 0, half),
    ]
    images = pictures()
    moved = (dealt(pool, images, torch.Generator().manual_seed(0)) - images.pixels).mean((1, 2, 3))
    assert {round(m, 3) for m in moved.tolist()} == {0.0, 1.0, 2.0}


class Brighter(nn.Module):
    """Says 0 where the first half of a picture is brighter: the left one, or the upper one."""

    def __init__(self, across: bool) -> None:
        super().__init__()
        self.across = across

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 3 if self.across else 2)
        return torch.stack([first.mean((1, 2, 3)), second.mean((1, 2, 3))], 1)


class Corner(nn.Module):
    """Looks at one pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0, 0, 0], 0.5 - x[:, 0, 0, 0]], 1)


def halves(across: bool) -> Images:
    pixels, labels = torch.zeros(40, 3, 16, 16), torch.arange(40) % 2
    bright = pixels if not across else pixels.transpose(2, 3)
    bright[::2, :, :8] = 1
    bright[1::2, :, 8:] = 1
    return Images(pixels, labels, tuple(str(i) for i in range(40)))


CONTRACT = Contract(2, ("first", "second"), (3, 16, 16), (0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("across", [True, False], ids=["left and right", "up and down"])
@pytest.mark.parametrize("wanted", [True, False], ids=["wanted", "not wanted"])
def test_no_mirror_images_for_a_network_that_tells_them_apart(across: bool, wanted: bool) -> None:
    model = Classifier(Brighter(across), CONTRACT)
    assert accuracy(model, halves(across)) == 1
    found = tolerated(model, halves(across), CropAndFlip(3, flip=wanted), seed=0)
    assert found == CropAndFlip(3, flip=wanted and not across)


def test_no_crops_for_a_network_that_looks_at_one_pixel() -> None:
    model, images = Classifier(Corner(), CONTRACT), halves(across=False)
    assert accuracy(model, images) == 1
    # Black comes in from the upper edge with half of all crops, whatever their padding.
    assert tolerated(model, images, CropAndFlip(3, flip=True), seed=0) == CropAndFlip(0, flip=True)


@pytest.mark.parametrize(("family", "least", "most"), [(Additive(spread=0.02), 1.2, 1.6), (Patch(), 0.0, 1.1)])
def test_before_relearning_patterns_may_be_larger_than_usual_and_patches_may_not(
    planted: Planted, family: Family, least: float, most: float
) -> None:
    """Attackers use more than they need, but what a large patch covers cannot be seen."""
    change = family.start((3, 16, 16), torch.Generator().manual_seed(0), torch.device("cpu"))
    usual = float(change.size().detach())
    known = as_trigger(family, ToClass(TARGET), change, {"size": usual, "usual": usual})
    first = replace(Immunise().first, families=(family,), follow=0.0)
    (again,) = first(planted.model, planted.images, [known], torch.Generator().manual_seed(0))
    assert least * usual < again.settings["size"] < most * usual
