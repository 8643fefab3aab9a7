"""The three forms of a trigger: each applies, and each refuses in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from harden.errors import BadData, HardenError, UsageError
from harden.triggers.attacked import attacked
from harden.triggers.given import Given, from_directory, from_function, from_picture
from harden.types import Evidence, Images, Run, Splits, Trigger
from tests.planted import BOARD, CONTRACT, SIZE, TARGET, Planted, pictures, save_pictures, stamp

FUNCTIONS = """
import torch
BOARD = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])

def direct(x):
    x = x.clone(); x[:, :, -4:-1, -4:-1] = BOARD; return x

def in_place(x):
    x[:, :, -4:-1, -4:-1] = BOARD; return x

def maker(strength=1.0):
    return lambda x: direct(x)

def two(x, y): return x
def shrinks(x): return x[:, :, 1:]
def normalised(x): return x * 4 - 2
def nan(x): return x * float("nan")
def fails(x): raise RuntimeError("no pattern file")
def returns_nothing(): return None
number = 3
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FUNCTIONS)
    return path


def sticker(folder: Path) -> Path:
    """The checkerboard at its place on a transparent picture."""
    pixels = torch.zeros(4, SIZE, SIZE)
    pixels[:3, -4:-1, -4:-1] = BOARD
    pixels[3, -4:-1, -4:-1] = 1
    return save(pixels, folder / "sticker.png")


def save(pixels: Tensor, path: Path) -> Path:
    array = (pixels * 255).round().byte().permute(1, 2, 0).squeeze(-1).numpy()
    Image.fromarray(array).save(path)
    return path


def by_directory(folder: Path) -> Trigger:
    clean = pictures(4)
    save_pictures(Images(stamp(clean.pixels), clean.labels, clean.names), folder / "twins")
    return from_directory(folder / "twins", TARGET, CONTRACT)


def by_picture(folder: Path) -> Trigger:
    return from_picture(sticker(folder), None, 1.0, TARGET, CONTRACT)


def by_mask(folder: Path) -> Trigger:
    seen = torch.zeros(1, SIZE, SIZE)
    seen[:, -4:-1, -4:-1] = 1
    board = stamp(torch.full((1, 3, SIZE, SIZE), 0.7))[0]
    picture, mask = save(board, folder / "board.png"), save(seen, folder / "mask.png")
    return from_picture(picture, mask, 1.0, TARGET, CONTRACT)


def by_function(folder: Path) -> Trigger:
    (folder / "mine.py").write_text(FUNCTIONS)
    return from_function(f"{folder / 'mine.py'}:direct", TARGET)


def by_maker(folder: Path) -> Trigger:
    (folder / "mine.py").write_text(FUNCTIONS)
    return from_function(f"{folder / 'mine.py'}:maker", TARGET)


def by_careless_function(folder: Path) -> Trigger:
    (folder / "mine.py").write_text(FUNCTIONS)
    return from_function(f"{folder / 'mine.py'}:in_place", TARGET)


@pytest.mark.parametrize("form", [by_directory, by_picture, by_mask, by_function, by_maker, by_careless_function])
def test_every_form_gives_the_same_trigger(form: Callable[[Path], Trigger], tmp_path: Path) -> None:
    trigger, clean = form(tmp_path), pictures(4)
    before = clean.pixels.clone()
    found = trigger(clean)
    torch.testing.assert_close(found.pixels, stamp(clean.pixels), atol=0.5 / 255 + 1e-6, rtol=0)
    assert found.names == clean.names
    assert torch.equal(found.labels, clean.labels)
    assert torch.equal(clean.pixels, before), "the clean images were changed"
    assert (trigger.source, trigger.target) == ("given", TARGET)


def test_blend_mixes(tmp_path: Path) -> None:
    white = save(torch.ones(3, SIZE, SIZE), tmp_path / "white.png")
    trigger = from_picture(white, None, 0.2, TARGET, CONTRACT)
    clean = pictures(2)
    torch.testing.assert_close(trigger(clean).pixels, 0.8 * clean.pixels + 0.2)


def test_images_without_a_twin_are_left_out(tmp_path: Path) -> None:
    clean = pictures(4)
    save_pictures(clean.take(torch.tensor([0, 5])), tmp_path)
    found = from_directory(tmp_path, TARGET, CONTRACT)(clean)
    assert found.names == (clean.names[0], clean.names[5])
    assert found.labels.tolist() == [0, 1]
    assert found.pixels.shape == (2, 3, SIZE, SIZE)
    assert len(from_directory(tmp_path, TARGET, CONTRACT)(pictures(2, seed=9))) == 0


def test_a_twin_may_have_another_ending(tmp_path: Path) -> None:
    clean = pictures(1).take(torch.tensor([0]))
    (path,) = save_pictures(clean, tmp_path).rglob("*.png")
    Image.open(path).save(path.with_suffix(".bmp"))
    path.unlink()
    assert from_directory(tmp_path, TARGET, CONTRACT)(clean).names == clean.names


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("missing", UsageError, "no function"),
        ("number", UsageError, "no function"),
        ("two", UsageError, "one batch was expected"),
        ("returns_nothing", UsageError, "returned NoneType"),
        ("fails", UsageError, "no pattern file"),
        ("shrinks", BadData, "(6, 3, 15, 16)"),
        ("normalised", BadData, "pixels in [0, 1] were expected"),
        ("nan", BadData, "pixels in [0, 1] were expected"),
    ],
)
def test_a_function_is_refused_in_words(functions: Path, name: str, error: type[HardenError], says: str) -> None:
    with pytest.raises(error) as caught:
        from_function(f"{functions}:{name}", TARGET)(pictures(2))
    assert says in caught.value.message


def test_a_file_that_is_not_there_or_fails_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module_at_all")
    for spec, says in (
        (f"{tmp_path}/broken.py:f", "no_such_module"),
        (f"{tmp_path}/no.py:f", "not there"),
        ("f", "FILE"),
    ):
        with pytest.raises(UsageError, match=says):
            from_function(spec, TARGET)


def test_pictures_are_refused_in_words(tmp_path: Path) -> None:
    good = sticker(tmp_path)
    opaque = save(torch.ones(3, SIZE, SIZE), tmp_path / "opaque.png")
    small = save(torch.ones(3, 8, 8), tmp_path / "small.png")
    black = save(torch.zeros(1, SIZE, SIZE), tmp_path / "black.png")
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    refused: list[tuple[Path, Path | None, float, type[HardenError], str]] = [
        (opaque, None, 1.0, UsageError, "covers the whole image"),
        (small, None, 0.5, BadData, "16x16"),
        (good, small, 1.0, BadData, "16x16"),
        (good, black, 1.0, BadData, "empty"),
        (text, None, 1.0, BadData, "cannot be read"),
        (good, None, 0.0, UsageError, "--blend"),
        (good, None, 1.5, UsageError, "--blend"),
    ]
    for picture, mask, blend, error, says in refused:
        with pytest.raises(error) as caught:
            from_picture(picture, mask, blend, TARGET, CONTRACT)
        assert says in caught.value.message


def test_folders_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no folder"):
        from_directory(tmp_path / "nowhere", TARGET, CONTRACT)
    with pytest.raises(BadData, match="no pictures"):
        from_directory(tmp_path, TARGET, CONTRACT)


def evidence_of(planted: Planted, splits: Splits, trigger: Trigger) -> Evidence:
    return Given((trigger,))(planted.model, splits, Run())


def test_a_trigger_that_works_is_evidence(planted: Planted, planted_splits: Splits) -> None:
    found = evidence_of(planted, planted_splits, planted.trigger)
    assert (found.status, found.target_classes, found.triggers) == ("backdoored", (TARGET,), (planted.trigger,))
    assert found.evidence[0].score == 1.0


def test_a_trigger_that_does_not_work_is_none(planted: Planted, planted_splits: Splits) -> None:
    harmless = replace(planted.trigger, apply=lambda images: images)
    found = evidence_of(planted, planted_splits, harmless)
    assert (found.status, found.triggers) == ("inconclusive", ())
    assert found.evidence[0].score == 0.0


def test_what_is_wrong_without_a_trigger_is_no_success_of_it(planted: Planted, planted_splits: Splits) -> None:
    harmless = replace(planted.trigger, target=None, apply=lambda images: images)
    choose = planted_splits.choose
    mistaken = torch.where(torch.arange(len(choose)) % 4 == 0, (choose.labels + 1) % 4, choose.labels)
    poor = replace(planted_splits, choose=replace(choose, labels=mistaken))
    found = evidence_of(planted, poor, harmless)
    assert (found.status, found.evidence[0].score) == ("inconclusive", 0.0)
    works = evidence_of(planted, poor, replace(planted.trigger, target=None))
    assert works.status == "backdoored"


def test_a_trigger_that_fits_no_image_is_refused(planted: Planted, planted_splits: Splits) -> None:
    nowhere = replace(planted.trigger, apply=lambda images: images.take(torch.arange(0)))
    with pytest.raises(BadData, match="none of the 60 images"):
        evidence_of(planted, planted_splits, nowhere)


def test_attack_success_counts_other_classes_only(planted: Planted) -> None:
    images = planted.images
    on = attacked([planted.trigger, replace(planted.trigger, target=None)], images)
    assert len(on.images) == 2 * len(images)
    said = torch.full((len(on.images),), TARGET)
    others = int((images.labels != TARGET).sum())
    assert on.success(said).hits == 2 * others
    assert on.success(said).total == others + len(images)
    assert len(attacked([], images).images) == 0
