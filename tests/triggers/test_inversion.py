"""The search finds the planted backdoor by its size, and believes only what it saw succeed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from harden.network import Classifier, predict
from harden.triggers.families import Additive, Family, Patch, Waves, shrinks
from harden.triggers.inversion import Aim, Inversion, Search, ToClass, ToNext, begin, searchable
from tests.planted import CONTRACT, TARGET, pictures, reachable


@pytest.fixture(scope="module")
def model() -> Classifier:
    """The planted network, so that its backdoor can be found by following gradients."""
    return searchable(reachable().model, pictures())


def search(model: Classifier, family: Family, aim: Aim, settings: Search | None = None) -> Inversion:
    return begin(model, family, aim, pictures(), settings or Search(), torch.Generator().manual_seed(0))


class Deaf(nn.Module):
    """Says class 0, whatever it is shown."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0, -1]]) + 0 * x.flatten(1).sum(1, keepdim=True)


class Striped(nn.Module):
    """Says class 1 of pictures with one plane wave in blue, class 0 of all others."""

    def forward(self, x: Tensor) -> Tensor:
        down, across = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        wave = torch.sin(2 * math.pi * (2 * down - 5 * across) / 16)  # of amplitude 1; its square has a mean of 0.5
        seen = 2 * (x[:, 2] * wave * CONTRACT.std[2]).mean((1, 2))
        return torch.stack((0 * seen, 100 * (seen - 0.05), 0 * seen - 9), 1)


@pytest.mark.parametrize(("family", "steps"), [(Patch(), 60), (Additive(), 150)], ids=["patch", "additive"])
def test_the_planted_class_is_reached_by_the_smallest_change(model: Classifier, family: Family, steps: int) -> None:
    searches = [search(model, family, ToClass(k)) for k in range(3)]
    for each in searches:
        each.run(steps)
    sizes = [each.size() for each in searches]
    assert min(sizes) == sizes[TARGET]
    assert 2 * sizes[TARGET] < min(sizes[1:])


def test_a_wave_is_found_as_itself_and_nothing_beside_it() -> None:
    found = search(Classifier(Striped(), CONTRACT), Waves(), ToClass(1))
    found.run(60)
    amplitudes = torch.linalg.vector_norm(found.result().parameters[0].detach(), dim=-1)[0]
    assert amplitudes.nonzero().tolist() == [[2, 2, 7 - 5]], "blue, two down and five to the left"
    assert 0.05 < float(amplitudes.max()) < 0.15
    assert found.size() == pytest.approx(10 * float(amplitudes.max()))


@pytest.mark.parametrize("family", [Additive(), Waves()], ids=lambda family: family.name)
def test_shrinking_takes_off_what_size_costs(family: Family) -> None:
    """Argmin over q of |q - p|^2 / 2 + by * size(q): nothing near it is better."""
    generator = torch.Generator().manual_seed(0)
    change = family.start((3, 16, 16), generator, torch.device("cpu"))
    assert shrinks(change)
    (parameter,) = change.parameters
    by = 0.01
    with torch.no_grad():
        parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
        before = parameter.clone()

        def cost() -> float:
            return float((parameter - before).double().square().sum()) / 2 + by * float(change.size())

        change.shrink(by)
        best, least = cost(), parameter.clone()
        assert least.norm() < before.norm()
        for _ in range(20):
            parameter.copy_(least + 0.02 * torch.randn(parameter.shape, generator=generator) * (least != 0))
            assert cost() > best
            parameter.copy_(least + 0.002 * torch.randn(parameter.shape, generator=generator))
            assert cost() > best
        parameter.copy_(before)
        change.shrink(100.0)
        assert not parameter.any(), "if size is dear enough, nothing is left"


def test_what_stays_succeeds_and_is_as_small_as_it_says(model: Classifier) -> None:
    found = search(model, Patch(), ToClass(TARGET), Search(success=0.95))
    found.run(60)
    change, unseen = found.result(), pictures(seed=7)
    said = predict(model, change(unseen.pixels)).argmax(1)
    assert float((said == TARGET).float().mean()) >= 0.9
    assert float(change.size()) == pytest.approx(found.best)
    assert not any(p.requires_grad for p in change.parameters)


def test_only_successes_are_recorded_and_only_smaller_ones(model: Classifier) -> None:
    found = search(model, Patch(), ToClass(TARGET), Search(batch=1000))  # all images, so that nothing is left to chance
    recorded, sizes, misses = math.inf, [], 0
    for _ in range(50):
        size = float(found.change.size().detach())
        with torch.no_grad():
            follow = model(found.change(found.images.pixels)).argmax(1) == TARGET
        found.run(1)
        succeeded = float(follow.float().mean()) >= Patch().success
        if succeeded and size < recorded:
            recorded = size
            sizes.append(size)
        misses += not succeeded
        assert found.best == pytest.approx(recorded)
    assert misses > 0
    assert len(sizes) > 1, "a success has to be followed by smaller ones"


def test_a_success_is_seen_again_on_images_that_were_not_learned_from(model: Classifier) -> None:
    few, share = Search(batch=2, success=0.95), []
    for family in (Patch(), replace(Patch(), unseen=0.5)):
        found = search(model, family, ToClass(TARGET), few)
        assert len(found.images) + len(found.unseen) == len(search(model, Patch(), ToClass(TARGET)).images)
        assert not set(found.images.names) & set(found.unseen.names)
        found.run(60)
        assert found.kept
        others = found.unseen if len(found.unseen) else found.images
        said = predict(model, found.result()(others.pixels)).argmax(1)
        share.append(float((said == TARGET).float().mean()))
    assert share[0] < 0.95 <= share[1]


def test_steps_grow_to_their_length_where_a_family_asks_for_it(model: Classifier) -> None:
    moved: dict[int, list[float]] = {}
    for warm in (0, 4):
        found = search(model, replace(Patch(), warm=warm), ToClass(TARGET))
        optimizer = found.step.optimizer  # type: ignore[attr-defined]
        moved[warm] = []
        for _ in range(6):
            moved[warm].append(optimizer.param_groups[0]["lr"] / Patch().rate)
            found.run(1)
    assert moved == {0: pytest.approx([1.0] * 6), 4: pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])}


def test_under_a_bound_all_images_are_learned_from(model: Classifier) -> None:
    family, generator = replace(Patch(), unseen=0.5), torch.Generator().manual_seed(0)
    assert not len(begin(model, family, ToClass(1), pictures(), Search(), generator, bound=1.0).unseen)


def test_what_never_succeeds_counts_as_large_as_was_tried() -> None:
    found = search(Classifier(Deaf(), CONTRACT), Patch(), ToClass(1))
    start = float(found.change.size().detach())
    found.run(10)
    assert found.kept == []
    assert found.best == math.inf
    assert found.size() == found.largest >= start


def test_size_costs_more_while_it_succeeds_and_less_while_it_does_not(model: Classifier) -> None:
    fails = search(Classifier(Deaf(), CONTRACT), Patch(), ToClass(1))
    fails.run(3)
    assert fails.weight == pytest.approx(0.05 / 1.3**3)
    succeeds = search(model, Patch(), ToClass(TARGET), Search(success=0.0))
    succeeds.run(3)
    assert succeeds.weight == pytest.approx(0.05 * 1.3**3)


def test_a_search_goes_on_where_it_stopped(model: Classifier) -> None:
    once, twice = search(model, Additive(), ToClass(TARGET)), search(model, Additive(), ToClass(TARGET))
    once.run(40)
    twice.run(15)
    twice.run(25)
    assert once.best == twice.best
    assert torch.equal(once.change.parameters[0], twice.change.parameters[0])


def test_under_a_bound_it_does_the_most_that_so_large_a_change_can(model: Classifier) -> None:
    generator = torch.Generator().manual_seed(0)
    found = begin(model, Additive(), ToClass(1), pictures(), Search(), generator, bound=1.0)  # it is about 3 away
    found.run(80)
    assert found.kept == []
    assert float(found.change.size().detach()) < 1.5
    assert float(found.change.size().detach()) > 0.3


def test_least_changes_that_can_shrink_are_moved_as_a_whole_and_all_others_by_adam(model: Classifier) -> None:
    def kind(family: Family, bound: float) -> str:
        generator = torch.Generator().manual_seed(0)
        found = begin(model, family, ToClass(1), pictures(), Search(), generator, bound=bound)
        return type(found.step).__name__

    assert [kind(family, math.inf) for family in (Additive(), Waves(), Patch())] == ["_Whole", "_Whole", "_Single"]
    assert [kind(family, 1.0) for family in (Additive(), Waves(), Patch())] == ["_Single"] * 3


def test_images_that_say_it_already_are_left_out() -> None:
    model = Classifier(Deaf(), CONTRACT)
    assert set(search(model, Patch(), ToClass(2)).images.labels.tolist()) == {0, 1}
    following = search(model, Patch(), ToNext(3))
    assert len(following.images) == len(pictures())
    assert following.aim(torch.tensor([0, 1, 2])).tolist() == [1, 2, 0]
