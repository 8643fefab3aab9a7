"""A softmax at the very end is looked behind; one anywhere else is part of the network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harden.network import Classifier
from harden.pruning import proof
from harden.softmax import before_softmax
from harden.types import Contract

CONTRACT = Contract(3, ("a", "b", "c"), (3, 4, 4), (0.5,) * 3, (0.25,) * 3)


class Ending(nn.Module):
    """Saturated logits, and what comes after them."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc = nn.Linear(48, 3)
        self.end = end
        nn.init.normal_(self.fc.weight, std=100, generator=torch.Generator().manual_seed(0))

    def logits(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.logits(x))


AT_THE_END: dict[str, Callable[[Tensor], Tensor]] = {
    "layer": nn.Softmax(1),
    "layer of old": nn.Softmax(),
    "last axis": nn.Softmax(-1),
    "inside": nn.Sequential(nn.Identity(), nn.Sequential(nn.Softmax(1))),
    "function": lambda x: F.softmax(x, dim=1),
    "torch": lambda x: torch.softmax(input=x, dim=1),
    "method": lambda x: x.softmax(-1),
}
ELSEWHERE: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "logarithm": lambda x: x.log_softmax(1),
    "then something": lambda x: x.softmax(1) * 1,
    "over the images": lambda x: x.softmax(0),
    "of something else": lambda x: x * x.softmax(1),
    "ignored": lambda x: (x.softmax(1), x)[1],
}
PIXELS = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("end", AT_THE_END)
def test_what_goes_into_a_softmax_at_the_end_is_what_a_classifier_says(end: str) -> None:
    network = Ending(AT_THE_END[end]).eval()
    model = Classifier(network, CONTRACT)
    for _ in range(2):
        logits = model.copy()(PIXELS)
        assert torch.equal(logits, network.logits((PIXELS - 0.5) / 0.25))
        F.cross_entropy(logits, logits.argmin(1)).backward()
    assert torch.equal(network(PIXELS).amax(1), torch.ones(5)), "the network itself still gives probabilities"
    assert model.plain == frozenset()


@pytest.mark.parametrize("end", ELSEWHERE)
def test_a_softmax_elsewhere_belongs_to_the_network(end: str) -> None:
    network = Ending(ELSEWHERE[end]).eval()
    outputs, softened = before_softmax(network, PIXELS)
    assert not softened
    assert torch.equal(outputs, network(PIXELS))


def test_a_softmax_outside_of_training_only_is_found_there() -> None:
    network = Ending(lambda x: x if network.training else x.softmax(1))
    model = Classifier(network, CONTRACT).train()
    expected = network.logits((PIXELS - 0.5) / 0.25)
    for mode in (True, False, True, False):
        assert torch.equal(model.train(mode)(PIXELS), expected)
    assert model.copy().plain == model.plain == {True}


def test_the_proof_looks_behind_the_softmax() -> None:
    """A logit far below the others is lost in the probabilities, and so would be a cut that changes it."""
    network, other = Ending(nn.Softmax(1)).eval(), Ending(nn.Softmax(1)).eval()
    with torch.no_grad():
        network.fc.bias.copy_(torch.tensor([1e5, 0, 0]))
        other.fc.bias.copy_(torch.tensor([1e5, 0, 7]))
    assert torch.equal(network(PIXELS), other(PIXELS))
    assert proof.difference(proof.outputs(network, PIXELS), proof.outputs(other, PIXELS)) > proof.TOLERANCE
