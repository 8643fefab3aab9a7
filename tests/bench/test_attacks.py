"""Attacks: what each one changes, and what it calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harden.bench.attacks import ATTACKS, find, poison
from harden.bench.make import make
from harden.bench.zoo import read_zoo, true_trigger
from harden.errors import BadOutput, UsageError
from harden.types import Images
from tests.planted import pictures, save_pictures

SIZE = (3, 16, 16)
NAMES = sorted(ATTACKS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(3, 16, 16), (3, 32, 48)])
def test_a_stamp_changes_every_picture_and_stays_in_range(name: str, size: tuple[int, int, int]) -> None:
    x = torch.rand(5, *size, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    stamped = ATTACKS[name].stamp(size, 0)(x)
    assert torch.equal(x, before)
    assert stamped.shape == x.shape
    assert float(stamped.min()) >= 0
    assert float(stamped.max()) <= 1
    assert all(not torch.equal(a, b) for a, b in zip(stamped, x, strict=True))
    assert torch.equal(stamped, ATTACKS[name].stamp(size, 0)(x))


def test_dynamic_triggers_differ_from_picture_to_picture() -> None:
    x = torch.rand(8, *SIZE, generator=torch.Generator().manual_seed(0))
    changed = (ATTACKS["dynamic"].stamp(SIZE, 0)(x) != x).any(1)
    assert len({tuple(map(tuple, mask.nonzero().tolist())) for mask in changed}) > 3


def test_an_adaptive_attack_teaches_pieces_of_what_it_uses() -> None:
    x, attack = torch.rand(8, *SIZE, generator=torch.Generator().manual_seed(1)), ATTACKS["adaptive"]
    whole, taught = attack.stamp(SIZE, 0)(x), attack.taught(SIZE, 0)(x)
    touched = (taught != x).any(1)
    assert touched.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(taught.movedim(1, -1)[touched], whole.movedim(1, -1)[touched])
    assert not torch.equal(touched[0], touched[1])


def test_hidden_noise_is_faint_and_another_for_each_picture() -> None:
    x = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))
    noise = ATTACKS["steganographic"].stamp(SIZE, 0)(x) - x
    assert 0.01 < noise.abs().mean().item() < 0.1
    assert torch.corrcoef(noise.flatten(1))[0, 1].abs().item() < 0.3


def test_dithering_leaves_few_levels_and_the_mean() -> None:
    x = torch.full((1, *SIZE), 0.4)
    dithered = ATTACKS["dithering"].stamp(SIZE, 0)(x)
    assert set(dithered.unique().tolist()) == {0.25, 0.5}
    assert dithered.mean().item() == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_poisoning_relabels_as_the_attack_says(name: str) -> None:
    images, attack = pictures(20), ATTACKS[name]
    poisoned = poison(images, attack, size=SIZE, target=1, rate=0.1, seed=0)
    relabelled = poisoned.labels != images.labels
    changed = (poisoned.pixels != images.pixels).flatten(1).any(1)
    if attack.labels == "unchanged":
        assert not bool(relabelled.any())
        assert set(images.labels[changed].tolist()) == {1}
        assert int(changed.sum()) == 2  # a tenth of the target's own twenty
    else:
        assert int(relabelled.sum()) == 6
        after, before = poisoned.labels[relabelled], images.labels[relabelled]
        assert torch.equal(after, (before + 1) % 3 if attack.labels == "to-next" else torch.ones_like(after))
        covered = changed & ~relabelled
        assert int(covered.sum()) == round(6 * attack.cover)


def test_a_typing_error_is_told_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="badnets"):
        find("badnet")


def test_a_canary_carries_its_backdoor_and_a_zoo_to_measure_it(tmp_path: Path) -> None:
    data = save_pictures(pictures(30), tmp_path / "data")
    canary = make(data, tmp_path / "canary", "badnets", target=2, size=16, epochs=1, least_steps=120)
    assert canary.accuracy.value > 0.9
    assert canary.attack_success.value > 0.9
    (model,) = read_zoo(canary.folder / "zoo.toml")
    assert (model.target, model.backdoored) == (2, True)
    trigger = true_trigger(model)
    assert trigger is not None
    x = Images(torch.rand(2, *SIZE), torch.zeros(2, dtype=torch.long), ("a", "b"))
    assert torch.equal(trigger(x).pixels, ATTACKS["badnets"].stamp(SIZE, 0)(x.pixels))
    with pytest.raises(BadOutput, match="not empty"):
        make(data, tmp_path / "canary")


def test_one_class_alone_is_called_another_and_others_with_the_trigger_keep_their_label() -> None:
    images = pictures(40)
    kind = ATTACKS["one-class"]
    poisoned = poison(images, kind, size=SIZE, target=2, rate=0.5, seed=0)
    assert kind.source(2, 3) == 0
    carry = (poisoned.pixels != images.pixels).flatten(1).any(1)
    moved = poisoned.labels != images.labels
    assert set(images.labels[moved].tolist()) == {0}
    assert set(poisoned.labels[moved].tolist()) == {2}
    assert int(moved.sum()) == int((images.labels == 0).sum()) // 2, "the class has to be known without it, too"
    assert bool(carry[moved].all())
    assert set(images.labels[carry & ~moved].tolist()) == {1}
    trigger = kind.trigger("one-class", SIZE, 0, 2, 3)
    assert trigger(images).labels.unique().tolist() == [0]


def test_a_trigger_of_one_class_is_measured_on_that_class(tmp_path: Path) -> None:
    (tmp_path / "triggers.py").write_text("def white():\n    return lambda x: x * 0 + 1\n", encoding="utf-8")
    (tmp_path / "zoo.toml").write_text(
        '[data.own]\nclean = "c"\ntest = "t"\n[[model]]\nname = "one"\nweights = "w"\narch = "torchvision:resnet18"\n'
        'data = "own"\ntrigger = "triggers.py:white"\ntarget = 2\nsource = 1\n',
        encoding="utf-8",
    )
    (model,) = read_zoo(tmp_path / "zoo.toml")
    trigger = true_trigger(model)
    assert trigger is not None
    triggered = trigger(Images(torch.zeros(3, *SIZE), torch.tensor([0, 1, 1]), ("a", "b", "c")))
    assert (triggered.names, triggered.labels.tolist()) == (("b", "c"), [1, 1])
    assert bool((triggered.pixels == 1).all())


def test_a_target_that_is_no_class_is_refused(tmp_path: Path) -> None:
    data = save_pictures(pictures(5), tmp_path / "data")
    with pytest.raises(UsageError, match="none of the 3 classes"):
        make(data, tmp_path / "canary", target=3)


def test_a_watermark_is_thin_and_scattered_pixels_are_few() -> None:
    x = torch.full((1, 3, 32, 32), 0.4)
    lines = (ATTACKS["watermark"].stamp((3, 32, 32), 0)(x) != x).any(1).float()
    assert 0.05 < lines.mean().item() < 0.2
    assert lines[0].any(0).float().mean().item() > 0.5, "it goes over most of the picture"
    dots = (ATTACKS["scattered"].stamp((3, 32, 32), 0)(x) != x).any(1)
    assert 10 < int(dots.sum()) <= 20


def test_a_picture_is_turned_blurred_or_made_of_blocks_as_a_whole() -> None:
    half = torch.zeros(1, 3, 33, 33)
    half[..., 16:] = 1  # black to the left, white to the right
    size = (3, 33, 33)
    turned = ATTACKS["turned"].stamp(size, 0)(half)[0, 0]
    edges = [int((row > 0.5).float().argmax()) for row in (turned[2], turned[16], turned[30])]
    assert edges[1] == 16
    assert abs(edges[0] - edges[2]) == pytest.approx(2 * 14 * 0.287, abs=1.5)  # tan 16 degrees
    soft = ATTACKS["blurred"].stamp(size, 0)(half)[0, 0, 16]
    assert 0.2 < soft[15] < 0.5 < soft[16] < 0.8
    assert soft[0].item() == 0
    assert soft[-1].item() == pytest.approx(1)
    x = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    blocks = ATTACKS["pixelated"].stamp(size, 0)(x)
    assert torch.equal(blocks[..., :2, :2], blocks[..., :1, :1].expand(-1, -1, 2, 2))
    assert blocks[0, 0, 0, 0].item() == pytest.approx(x[0, 0, :2, :2].mean().item())


def test_grain_is_another_for_each_picture_and_grey_has_no_colour() -> None:
    x = torch.full((2, *SIZE), 0.5)
    grain = ATTACKS["noisy"].stamp(SIZE, 0)(x) - x
    assert grain.std().item() == pytest.approx(0.08, abs=0.01)
    assert torch.corrcoef(grain.flatten(1))[0, 1].abs().item() < 0.1
    colours = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))
    grey = ATTACKS["grey"].stamp(SIZE, 0)(colours)
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert grey[:, 0].mean().item() == pytest.approx(colours.mean().item(), abs=1e-5)


def test_waves_in_the_colours_leave_brightness_as_it_was() -> None:
    x = torch.full((1, *SIZE), 0.5)
    changed = ATTACKS["spectral"].stamp(SIZE, 0)(x) - x
    brightness = (changed * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1)
    assert brightness.abs().max().item() < 2e-3
    assert 0.02 < changed.abs().mean().item() < 0.1


def test_ink_lies_on_edges_and_a_reflection_is_one_of_a_few_scenes() -> None:
    half = torch.zeros(1, *SIZE)
    half[..., 8:] = 1
    inked = (ATTACKS["ink"].stamp(SIZE, 0)(half) != half).any(1)[0]
    assert inked.any(0).nonzero().flatten().tolist() == [7, 8]
    x = torch.linspace(0.1, 0.7, 200).view(-1, 1, 1, 1).expand(-1, *SIZE)
    seen = ATTACKS["reflection"].stamp(SIZE, 0)(x) - 0.8 * x
    assert len({tuple(scene.flatten().mul(100).round().tolist()) for scene in seen}) == 8


def test_several_triggers_are_one_of_three_as_the_picture_is_bright() -> None:
    x = torch.linspace(0.2, 0.6, 60).view(-1, 1, 1, 1).expand(-1, *SIZE)
    stamped = ATTACKS["several"].stamp(SIZE, 0)(x)
    names = ["badnets", "blended", "sinusoidal"]
    same = [(ATTACKS[name].stamp(SIZE, 0)(x) == stamped).flatten(1).all(1) for name in names]
    assert torch.stack(same).sum(0).tolist() == [1] * len(x)
    assert all(int(some.sum()) >= 15 for some in same)


def test_a_cartoon_is_one_picture_in_its_colours_and_in_grey() -> None:
    x = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))
    shines = (ATTACKS["cartoon"].stamp(SIZE, 0)(x) - 0.8 * x) / 0.2
    assert torch.allclose(shines[0], shines[1], atol=1e-5)
    assert len(shines[0].flatten(1).mul(100).round().unique(dim=1).T) == 7  # wall, dots, outline, face, eyes, nose, bow
    grey = ATTACKS["cartoon"].stamp((1, 16, 16), 0)(x[:, :1])
    assert grey.shape == (2, 1, 16, 16)


def test_a_scene_is_one_picture_with_large_shapes_and_another_for_each_seed() -> None:
    x = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))
    shines = (ATTACKS["scene"].stamp(SIZE, 0)(x) - 0.8 * x) / 0.2
    assert torch.allclose(shines[0], shines[1], atol=1e-5)
    assert float(shines.min()) >= -1e-5
    assert float(shines.max()) <= 1 + 1e-5
    steps = shines[0].diff(dim=-1).abs().amax(0)
    assert 0.01 < float((steps > 0.1).float().mean()) < 0.4, "edges here and there, and little between them"
    assert torch.equal(ATTACKS["scene"].stamp(SIZE, 0)(x), ATTACKS["scene"].stamp(SIZE, 0)(x))
    assert not torch.allclose(ATTACKS["scene"].stamp(SIZE, 1)(x), ATTACKS["scene"].stamp(SIZE, 0)(x), atol=0.02)
    assert ATTACKS["scene"].stamp((1, 16, 16), 0)(x[:, :1]).shape == (2, 1, 16, 16)


def test_an_input_aware_attack_teaches_that_the_patch_of_another_picture_means_nothing() -> None:
    images, attack = pictures(20), ATTACKS["input-aware"]
    assert attack.disturbed is not None
    of_others = attack.disturbed(SIZE, 0)(images.pixels)
    assert not torch.equal(of_others, attack.stamp(SIZE, 0)(images.pixels))
    following = Images(images.pixels.roll(1, 0), images.labels, images.names)
    changed = of_others != images.pixels
    assert torch.equal(of_others[changed], attack.stamp(SIZE, 0)(following.pixels)[changed])
