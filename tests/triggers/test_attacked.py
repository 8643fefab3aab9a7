"""Images with triggers put on them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from harden.triggers.attacked import attacked, shared_out
from harden.types import Images, Trigger

PLAIN = Images(torch.zeros(5, 3, 4, 4), torch.arange(5), tuple("abcde"))


def adding(number: float, *, only: Callable[[Images], Images] = lambda images: images) -> Trigger:
    def add(images: Images) -> Images:
        some = only(images)
        return Images(some.pixels + number, some.labels, some.names)

    return Trigger(f"adds {number}", "given", 0, add)


def test_every_image_carries_one_of_them() -> None:
    twins = shared_out([adding(1), adding(2)], PLAIN)
    assert twins.pixels.amax((1, 2, 3)).tolist() == [1, 1, 1, 2, 2]
    assert twins.names == PLAIN.names
    assert torch.equal(twins.labels, PLAIN.labels)


def test_with_one_trigger_it_is_what_every_image_with_every_trigger_is() -> None:
    one = [adding(1)]
    assert torch.equal(shared_out(one, PLAIN).pixels, attacked(one, PLAIN).images.pixels)


def test_more_triggers_than_images_and_images_that_cannot_carry_theirs() -> None:
    many = [adding(n) for n in range(1, 8)]
    assert shared_out(many, PLAIN).pixels.amax((1, 2, 3)).tolist() == [1, 2, 3, 4, 5]
    odd = adding(9, only=lambda images: images.take((images.labels % 2 == 1).nonzero().flatten()))
    assert shared_out([adding(1), odd], PLAIN).names == ("a", "b", "c", "d")
    assert not len(shared_out([odd], PLAIN.take(torch.tensor([0]))))
