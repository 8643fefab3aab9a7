"""Jobs side by side: in order, each with a network of its own, all on one bill, and ended by an error."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from harden.network import Classifier
from harden.spread import Job, Tell, spread
from harden.types import Contract


class Forgetful(nn.Module):
    """Takes what it was given from a field, as some networks do: two passes at once would mix their pictures up."""

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        MEET.wait()
        return self.x.mean((2, 3))


class Told:
    def __init__(self) -> None:
        self.steps = 0.0

    def advance(self, steps: float = 1, note: str = "") -> None:  # noqa: ARG002
        self.steps += steps


MEET = threading.Barrier(2, timeout=20)
"""Passed by two at once only."""


def model(size: int = 8) -> Classifier:
    contract = Contract(3, tuple("abc"), (3, size, size), (0.0,) * 3, (1.0,) * 3)
    made = Classifier(Forgetful(), contract).eval()
    made.layout = torch.contiguous_format
    return made


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def shown(value: float) -> Job[float]:
    def job(model: Classifier, tell: Tell) -> float:
        tell(1, "")
        return float(model(torch.full((5, 3, 8, 8), value)).mean())

    return job


def test_two_at_once_each_with_its_own_network_in_order_and_on_one_bill() -> None:
    network, told = model(), Told()
    said = spread(network, [shown(v) for v in (0.0, 1.0, 2.0, 3.0)], told)
    assert said == [0, 1, 2, 3]
    assert network.cost.forward_images == 20
    assert told.steps == 4
    assert torch.get_num_threads() == 2


def test_inside_each_has_one_core() -> None:
    assert spread(model(), [lambda *_: torch.get_num_threads()] * 3, Told()) == [1, 1, 1]


@pytest.mark.parametrize(("size", "threads"), [(8, 1), (128, 2)])
def test_one_after_the_other_where_it_would_not_pay(size: int, threads: int) -> None:
    torch.set_num_threads(threads)
    network, names = model(size), []

    def job(given: Classifier, _: Tell) -> None:
        assert given is network
        names.append(threading.current_thread().name)

    spread(network, [job, job], Told())
    assert names == ["MainThread"] * 2


def test_an_error_ends_the_others() -> None:
    begun = threading.Event()

    def endless(_: Classifier, tell: Tell) -> None:
        begun.set()
        while True:
            tell(0, "")

    def wrong(_: Classifier, __: Tell) -> None:
        begun.wait(20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spread(model(), [wrong, endless, endless], Told())
    assert torch.get_num_threads() == 2
