"""Each family begins at the identity, and its size is what it says it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harden.triggers.families import (
    Additive,
    Change,
    Family,
    Filter,
    Patch,
    Spectral,
    Tone,
    Veil,
    Warp,
    Waves,
    default_families,
    fixed,
)

SHAPE = (3, 16, 16)
FAMILIES = pytest.mark.parametrize("family", default_families(), ids=lambda family: family.name)


def begun(family: Family, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Change:
    return family.start(shape, torch.Generator().manual_seed(seed), torch.device("cpu"))


def set_to(change: Change, *values: Tensor | float) -> Change:
    with torch.no_grad():
        for parameter, value in zip(change.parameters, values, strict=True):
            parameter.copy_(torch.as_tensor(value))
    return change


def noise(n: int = 4, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return 0.2 + 0.6 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(3))


@FAMILIES
def test_begins_next_to_the_identity(family: Family) -> None:
    pixels = noise()
    changed = begun(family)(pixels)
    assert changed.shape == pixels.shape
    moved = float((changed - pixels).abs().mean().detach())
    assert 0 < moved < (0.04 if isinstance(family, Veil) else 0.02)  # of 1; a patch covers 5 % of every pixel at first


def test_a_veil_blends_a_picture_in_and_its_size_is_what_happens_there() -> None:
    for side in (16, 48):
        logits = torch.full((1, 3, side, side), -20.0)
        logits[..., side // 2 :] = 20  # black on the left and white on the right
        change, pixels = set_to(begun(Veil(), (3, side, side)), logits), noise(shape=(3, side, side))
        torch.testing.assert_close(change(pixels)[..., : side // 2], 0.8 * pixels[..., : side // 2])
        torch.testing.assert_close(change(pixels)[..., side // 2 :], 0.2 + 0.8 * pixels[..., side // 2 :])
        assert float(change.size().detach()) == pytest.approx(500 * 0.2 / 32 * side / (side - 1), rel=1e-4)
    assert float(set_to(begun(Veil()), 3.0).size().detach()) == 0, "of one grey, nothing happens"
    strongest = begun(Veil()).scaled(9)
    assert strongest is not None
    torch.testing.assert_close(strongest(torch.zeros(1, *SHAPE)).mean(), torch.tensor(0.25), atol=0.01, rtol=0)


@FAMILIES
def test_the_same_generator_makes_the_same_start(family: Family) -> None:
    pixels = noise()
    assert torch.equal(begun(family, seed=1)(pixels), begun(family, seed=1)(pixels))
    assert not torch.equal(begun(family, seed=1)(pixels), begun(family, seed=2)(pixels))


@FAMILIES
def test_one_change_for_all_images(family: Family) -> None:
    change, pixels = begun(family), noise()
    together = change(pixels)
    for i in range(len(pixels)):
        torch.testing.assert_close(change(pixels[i : i + 1])[0], together[i])


@FAMILIES
def test_everything_is_learned_from_the_picture_and_the_size_counts(family: Family) -> None:
    change = begun(family)
    asked: list[Callable[[], Tensor]] = [lambda: change(noise()).square().sum(), change.size]
    for of in asked:
        for parameter in change.parameters:
            parameter.grad = None
        torch.autograd.backward(of())
        grads = [p.grad for p in change.parameters if p.grad is not None and bool(p.grad.any())]
        # A patch's size is its mask alone, whatever it shows.
        assert len(grads) == (1 if family.name == "patch" and of == change.size else len(change.parameters))


@FAMILIES
def test_twice_as_strong_is_twice_as_large_and_changes_more(family: Family) -> None:
    change, pixels = begun(family), noise()
    double = change.scaled(2)
    assert double is not None
    assert float(double.size()) == pytest.approx(2 * float(change.size().detach()), rel=1e-3)
    before, after = ((c(pixels) - pixels).abs().mean().detach() for c in (change, double))
    assert float(after) == pytest.approx(2 * float(before), rel=0.1)  # but for rounding, clipping and interpolation
    assert not any(p.requires_grad for p in double.parameters)


@FAMILIES
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_what_is_begun_from_another_leaves_that_as_it_was(family: Family, factor: float) -> None:
    change, pixels = begun(family), noise()
    before, more = change(pixels).detach(), change.scaled(factor)
    assert more is not None
    with torch.no_grad():
        for parameter in more.parameters:
            parameter.add_(1)
    assert torch.equal(change(pixels), before)


@FAMILIES
def test_what_is_fixed_learns_no_more(family: Family) -> None:
    change = fixed(begun(family))
    assert not change(noise()).requires_grad
    assert not change.size().requires_grad


@pytest.mark.parametrize("side", [16, 32])
def test_sizes_are_those_of_an_image_of_32_pixels(side: int) -> None:
    shape = (3, side, side)
    added = set_to(begun(Additive(), shape), 0.1)
    assert float(added.size().detach()) == pytest.approx(32 * math.sqrt(3) * 0.1, rel=1e-4)
    mask = torch.full((1, 1, side, side), -20.0)
    mask[..., : side // 2, : side // 2] = 20
    assert float(set_to(begun(Patch(), shape), mask, 0).size().detach()) == pytest.approx(256, rel=1e-4)


def test_a_patch_shows_its_pattern_where_its_mask_is() -> None:
    mask, pixels = torch.full((1, 1, 16, 16), -20.0), noise()
    mask[..., 12:, 12:] = 20
    changed = set_to(begun(Patch()), mask, 20)(pixels)
    torch.testing.assert_close(changed[..., 12:, 12:], torch.ones(4, 3, 4, 4))
    torch.testing.assert_close(changed[..., :12], pixels[..., :12])


def test_what_is_added_is_clipped() -> None:
    changed = set_to(begun(Additive()), 0.5)(noise())
    torch.testing.assert_close(changed, (noise() + 0.5).clamp(max=1))


def test_a_spectral_coefficient_is_a_cosine() -> None:
    weights = torch.zeros(1, 3, 16, 16)
    weights[0, 1, 0, 2] = 0.05  # green, two half waves across
    change = set_to(begun(Spectral()), weights)
    wave = 0.05 * torch.cos(math.pi * (2 * torch.arange(16) + 1) * 2 / 32)
    torch.testing.assert_close(change(noise())[:, 1], noise()[:, 1] + wave)
    torch.testing.assert_close(change(noise())[:, 0], noise()[:, 0])
    assert float(change.size()) == pytest.approx(0.5)


def test_a_wave_has_any_direction_and_phase_and_the_size_of_its_amplitude() -> None:
    weights = torch.zeros(1, 3, 8, 15, 2)
    weights[0, 2, 1, 7 - 3] = torch.tensor([0.03, 0.04])  # blue, one wave down and three to the left
    change = set_to(begun(Waves(), (3, 16, 16)), weights)
    turn = 2 * math.pi * (torch.arange(16)[:, None] - 3 * torch.arange(16)) / 16
    grey = torch.full((1, 3, 16, 16), 0.5)
    torch.testing.assert_close(change(grey)[0, 2], 0.5 + 0.03 * turn.cos() - 0.04 * turn.sin())
    torch.testing.assert_close(change(grey)[0, :2], grey[0, :2])
    assert float(change.size().detach()) == pytest.approx(0.5)


def test_a_warp_moves_by_pixels() -> None:
    flow = torch.zeros(1, 2, 6, 6)
    flow[:, 0] = 1  # to the right, where the picture is looked up
    change, pixels = set_to(begun(Warp(), (3, 33, 33)), flow), noise(shape=(3, 33, 33))  # 32 steps between 33 pixels
    torch.testing.assert_close(change(pixels)[..., :-1], pixels[..., 1:], atol=1e-4, rtol=0)
    assert float(change.size()) == pytest.approx(1, rel=1e-4)


def test_a_tone_is_a_curve_and_a_mixing() -> None:
    lifted = set_to(begun(Tone()), 0.1, 0)
    torch.testing.assert_close(lifted(noise()), noise() + 0.1)
    assert float(lifted.size()) == pytest.approx(1, rel=1e-4)
    mixing = torch.zeros(3, 3)
    mixing[0, 2] = 0.1  # red takes a tenth of blue
    mixed = set_to(begun(Tone()), 0, mixing)(noise())
    torch.testing.assert_close(mixed[:, 0], noise()[:, 0] + 0.1 * noise()[:, 2])
    torch.testing.assert_close(mixed[:, 1:], noise()[:, 1:])


def test_a_filter_takes_from_neighbours_and_colours_and_keeps_the_brightness() -> None:
    taken, mixing, none = torch.zeros(5, 5), torch.zeros(3, 3), torch.zeros(3, 3)
    taken[2, 3] = 0.25  # a quarter of what is to the right
    change, pixels = set_to(begun(Filter()), taken, none), noise()
    torch.testing.assert_close(change(pixels)[..., :-1], 0.75 * pixels[..., :-1] + 0.25 * pixels[..., 1:])
    assert float(change.size().detach()) == pytest.approx(2.5)
    mixing[0] = torch.tensor([0.0, 0.3, 0.3])  # red takes as much of each
    change = set_to(begun(Filter()), torch.zeros(5, 5), mixing)
    torch.testing.assert_close(change(pixels)[:, 0], (0.4 * pixels[:, 0] + 0.3 * (pixels[:, 1] + pixels[:, 2])))
    torch.testing.assert_close(change(pixels)[:, 1:], pixels[:, 1:])
    assert float(change.size().detach()) == pytest.approx(2)
    even = torch.full((1, 3, 16, 16), 0.3)
    torch.testing.assert_close(begun(Filter())(even), even)


def test_a_filter_reaches_as_far_in_a_larger_picture() -> None:
    taken = torch.zeros(5, 5)
    taken[2, 3] = 1.0
    change, pixels = set_to(begun(Filter(), (3, 96, 96)), taken, torch.zeros(3, 3)), noise(shape=(3, 96, 96))
    there = change(pixels)[..., 40, 40]  # three pixels on, the mean of three by three
    torch.testing.assert_close(there, pixels[..., 39:42, 42:45].mean((2, 3)))
