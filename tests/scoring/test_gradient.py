"""The unlearning gradient against autograd written out, and against the filter that is known to be guilty."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harden.network import Classifier, close, predict, units
from harden.scoring.folded import FoldedUnit, folded
from harden.scoring.gate import Gate, gate
from harden.scoring.gradient import UnlearningGradient, batch_for
from harden.types import Contract, Filter, Images
from tests.planted import GUILTY, Planted, pictures


def written_out(model: Classifier, images: Images) -> dict[str, Tensor]:
    """The definition, with nothing clever about it."""
    weights = {n: u.conv.weight for n, u in units(model).items()}
    loss = cross_entropy(model(images.pixels), images.labels)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return {n: g.abs().mean((1, 2, 3)) for n, g in zip(weights, gradients, strict=True)}


class Awkward(nn.Module):
    """A convolution that is used twice, one without a normalisation, a depthwise one, and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.deep_norm = nn.BatchNorm2d(6, affine=False)
        self.plain = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        raw = self.stem(x)
        x = raw + self.norm(raw).relu()  # the raw output is used as well: it must not be folded
        x = x + self.deep_norm(self.deep(x))
        return self.head(self.plain(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


def awkward() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Awkward()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return Classifier(network, Contract(3, ("a", "b", "c"), (3, 16, 16), (0.5,) * 3, (0.25,) * 3)).eval()


def test_score_is_the_definition(planted: Planted) -> None:
    attacked = planted.trigger(planted.images)
    found = UnlearningGradient()(planted.model, units(planted.model), planted.images, attacked)
    expected = written_out(planted.model, attacked)
    for layer in expected:
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-4, atol=1e-7)


def test_the_guilty_filter_is_sixty_times_every_other(planted: Planted) -> None:
    found = UnlearningGradient()(planted.model, units(planted.model), planted.images, planted.trigger(planted.images))
    everything = {Filter(layer, i): float(v) for layer, score in found.items() for i, v in enumerate(score)}
    guilty = everything.pop(GUILTY)
    assert guilty >= 60 * max(everything.values())


def test_batches_and_their_order_change_nothing(planted: Planted) -> None:
    attacked = planted.trigger(planted.images)
    shuffled = attacked.take(torch.randperm(len(attacked), generator=torch.Generator().manual_seed(3)))
    parts = units(planted.model)
    whole = UnlearningGradient()(planted.model, parts, attacked, attacked)
    small = UnlearningGradient(batch=7)(planted.model, parts, shuffled, shuffled)
    for layer in whole:
        torch.testing.assert_close(whole[layer], small[layer], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("score", [UnlearningGradient(), Gate()], ids=["gradient", "gate"])
def test_the_model_is_given_back_as_it_was(planted: Planted, score: UnlearningGradient | Gate) -> None:
    model = planted.model.train()
    model.network.get_parameter("fc.weight").grad = torch.ones(3, 8)
    model.network.get_parameter("fc.bias").requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    score(model, units(model), planted.images, planted.trigger(planted.images))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(m.training for m in model.modules())
    assert not model.network.get_parameter("fc.bias").requires_grad
    kept = model.network.get_parameter("fc.weight").grad
    assert kept is not None
    assert bool((kept == 1).all())
    assert all(p.grad is None for n, p in model.network.named_parameters() if n != "fc.weight")


def test_gate_score_picks_the_guilty_filter_and_not_one_that_a_class_needs(planted: Planted) -> None:
    found = Gate()(planted.model, units(planted.model), planted.images, planted.trigger(planted.images))
    # Filter 0 of the second convolution carries the backdoor too, but red is lost without it.
    assert int(found["conv1"].argmax()) == GUILTY.index
    assert all(found["conv1"][k] < 0 for k in (1, 2))


def test_gate_is_what_a_gate_would_have(planted: Planted) -> None:
    model = planted.model
    gates = torch.ones(16, requires_grad=True)
    images = planted.trigger(planted.images)
    handle = model.network.get_submodule("bn1").register_forward_hook(lambda _m, _i, out: out * gates.view(1, -1, 1, 1))
    cross_entropy(model(images.pixels), images.labels).backward()
    handle.remove()
    assert gates.grad is not None
    torch.testing.assert_close(gate(model, units(model), images)["conv1"], gates.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("closed", [False, True])
def test_folded_network_is_the_same_function_with_the_same_scores(planted: Planted, closed: bool) -> None:
    if closed:
        close(units(planted.model), [GUILTY, Filter("conv2", 5)])
    attacked = planted.trigger(planted.images)
    copy, parts = folded(planted.model, planted.images)
    assert all(isinstance(unit, FoldedUnit) for unit in parts.values())
    torch.testing.assert_close(predict(copy, attacked), predict(planted.model, attacked), rtol=1e-4, atol=1e-4)
    found = UnlearningGradient()(copy, parts, attacked, attacked)
    expected = written_out(planted.model, attacked)
    for layer in expected:
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-3, atol=1e-5)
    close(parts, [GUILTY])
    close(units(planted.model), [GUILTY])
    torch.testing.assert_close(predict(copy, attacked), predict(planted.model, attacked), rtol=1e-4, atol=1e-4)


def test_a_fold_that_would_change_the_function_is_not_made() -> None:
    model, images = awkward(), pictures(4)
    copy, parts = folded(model, images)
    assert not any(isinstance(unit, FoldedUnit) for unit in parts.values())
    torch.testing.assert_close(predict(copy, images), predict(model, images))
    found, expected = UnlearningGradient()(copy, parts, images, images), written_out(model, images)
    for layer in expected:
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-3, atol=1e-7)


def test_a_folded_copy_is_independent(planted: Planted) -> None:
    before = {k: v.clone() for k, v in planted.module.state_dict().items()}
    _, parts = folded(planted.model, planted.images)
    close(parts, [GUILTY])
    assert all(torch.equal(v, before[k]) for k, v in planted.module.state_dict().items())


@pytest.mark.parametrize(("size", "expected"), [(32, 128), (64, 128), (224, 10), (1024, 8)])
def test_larger_pictures_come_in_smaller_batches(size: int, expected: int) -> None:
    assert batch_for(Contract(2, ("a", "b"), (3, size, size), (0.5,), (0.5,))) == expected
