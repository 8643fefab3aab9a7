"""Folders of images: any mode in, disjoint splits out, and refusals that say what came."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harden.data import check_preprocessing, class_folders, read_images, read_samples, split
from harden.errors import BadData, Inconclusive
from harden.types import Contract, Images, Rate

CONTRACT = Contract(2, ("cat", "dog"), (3, 8, 8), (0.0,) * 3, (1.0,) * 3)
GREY = Contract(2, ("cat", "dog"), (1, 8, 8), (0.0,), (1.0,))


def picture(seed: int, size: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(10):
            picture(100 * number + i).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_pixels_labels_and_names(folder: Path) -> None:
    images, findings = read_images(folder, CONTRACT)
    assert findings == ()
    assert images.pixels.shape == (20, 3, 8, 8)
    assert images.names[0] == "cat/0.png"
    assert images.labels.tolist() == [0] * 10 + [1] * 10
    expected = torch.from_numpy(np.asarray(picture(0)).copy()).permute(2, 0, 1) / 255
    assert torch.allclose(images.pixels[0], expected)


def test_labels_follow_the_contract_and_not_the_alphabet(folder: Path) -> None:
    images, _ = read_images(folder, Contract(2, ("dog", "cat"), (3, 8, 8), (0.0,) * 3, (1.0,) * 3))
    assert {n.partition("/")[0]: label for n, label in zip(images.names, images.labels.tolist(), strict=True)} == {
        "dog": 0,
        "cat": 1,
    }


def odd_pictures() -> dict[str, tuple[Image.Image, dict[str, object]]]:
    deep = Image.fromarray(np.full((8, 8), 65535, dtype=np.uint16))
    palette = picture(1).convert("P")
    sideways = Image.Exif()
    sideways[0x0112] = 6
    return {
        "deep.png": (deep, {}),
        "cmyk.jpg": (picture(2).convert("CMYK"), {}),
        "palette.gif": (palette, {}),
        "animated.gif": (palette, {"save_all": True, "append_images": [picture(3).convert("P")]}),
        "alpha.png": (picture(4).convert("RGBA"), {}),
        "bits.png": (picture(5).convert("1"), {}),
        "large.webp": (picture(6, 300), {}),
        "sideways.jpg": (picture(7), {"exif": sideways}),
        "float.tiff": (Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32)), {}),
    }


@pytest.mark.parametrize("contract", [CONTRACT, GREY, Contract(2, ("cat", "dog"), (4, 8, 8), (0.0,) * 4, (1.0,) * 4)])
def test_every_mode_is_read(folder: Path, contract: Contract) -> None:
    for name, (odd, options) in odd_pictures().items():
        odd.save(folder / "cat" / name, **options)  # type: ignore[arg-type]
    images, findings = read_images(folder, contract)
    assert len(images) == 20 + len(odd_pictures())
    assert images.pixels.shape[1] == contract.input_size[0]
    assert 0 <= float(images.pixels.min()) <= float(images.pixels.max()) <= 1
    told = " ".join(f.message for f in findings)
    assert "resized to 8x8" in told
    assert "first frame" in told
    deep = images.pixels[images.names.index("cat/deep.png")]
    assert bool((deep == 1).all()), "16 bits are scaled, not clipped"
    half = images.pixels[images.names.index("cat/float.tiff"), 0]
    assert torch.allclose(half, torch.tensor(0.5))


def test_a_picture_is_turned_upright(folder: Path) -> None:
    upright = np.zeros((8, 8, 3), dtype=np.uint8)
    upright[:4] = 255
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.fromarray(upright).save(folder / "dog" / "turned.png", exif=turned)
    images, _ = read_images(folder, CONTRACT)
    pixels = images.pixels[images.names.index("dog/turned.png")]
    assert float(pixels[:, :4].max()) == 0
    assert float(pixels[:, 4:].min()) == 1


def test_unreadable_images_are_named_and_the_rest_goes_on(folder: Path) -> None:
    (folder / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "dog" / ".DS_Store").write_bytes(b"clutter")
    (folder / "dog" / "Thumbs.db").write_bytes(b"clutter")
    images, findings = read_images(folder, CONTRACT)
    assert len(images) == 20
    assert [f.rule for f in findings] == ["data-unreadable"]
    assert "cat/broken.png" in findings[0].message


def test_a_picture_of_absurd_size_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(1, 300).save(folder / "cat" / "absurd.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    images, findings = read_images(folder, CONTRACT)
    assert len(images) == 20
    assert any("absurd.png (DecompressionBombError" in finding.message for finding in findings)


def test_a_class_whose_name_is_no_text_is_refused(folder: Path) -> None:
    os.mkdir(os.fsencode(folder) + b"/m\xfcll")  # noqa: PTH102 (a name that is no text)
    with pytest.raises(BadData, match="text in no encoding"):
        class_folders(folder)


def test_a_folder_that_cannot_be_listed_hides_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cat" / "more").mkdir()
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "more":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(BadData, match=r"more cannot be read: Permission denied"):
        read_images(folder, CONTRACT)


def _spoil(folder: Path) -> None:
    for i in range(6):
        (folder / "cat" / f"{i}.png").write_bytes(b"no image")


def _empty(folder: Path) -> None:
    (folder / "bird").mkdir()


def _nothing(folder: Path) -> None:
    for path in (folder / "cat").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_spoil, "6 of the 10 files of class 'cat'"),
        (_empty, "no class of the model: bird"),
        (_nothing, "no image for 1"),
    ],
)
def test_what_cannot_be_used_is_refused(folder: Path, change: object, sentence: str) -> None:
    assert callable(change)
    change(folder)
    with pytest.raises(BadData, match=sentence) as caught:
        read_images(folder, CONTRACT)
    assert caught.value.hint


def test_folders_are_refused_that_hold_no_classes(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "loose.png")
    with pytest.raises(BadData, match="one folder per class"):
        class_folders(tmp_path)
    with pytest.raises(BadData, match="cannot be read"):
        class_folders(tmp_path / "nowhere")
    with pytest.raises(BadData, match="5 channels"):
        read_images(tmp_path, Contract(2, ("cat", "dog"), (5, 8, 8), (0.0,) * 5, (1.0,) * 5))


def test_a_class_without_a_folder_is_told(folder: Path) -> None:
    wider = Contract(3, ("cat", "dog", "owl"), (3, 8, 8), (0.0,) * 3, (1.0,) * 3)
    _, findings = read_images(folder, wider)
    assert [f.rule for f in findings] == ["data-missing-class"]
    assert "owl" in findings[0].message


def test_too_many_images_are_thinned_evenly(folder: Path) -> None:
    images, findings = read_images(folder, CONTRACT, max_bytes=4 * 3 * 64 * 8)
    assert images.labels.bincount().tolist() == [4, 4]
    assert images.names[:4] == ("cat/0.png", "cat/2.png", "cat/5.png", "cat/7.png")
    assert [f.rule for f in findings] == ["data-thinned"]


def test_a_hundred_thousand_images_are_thinned_before_any_is_read(folder: Path) -> None:
    for number in range(100_000 - 20):
        os.link(folder / "cat" / f"{number % 10}.png", folder / "cat" / f"x{number:05d}.png")
    images, findings = read_images(folder, CONTRACT, max_bytes=4 * 3 * 64 * 40)
    assert images.labels.bincount().tolist() == [20, 10]
    assert [f.message for f in findings] == ["30 of 100000 images are read, evenly from every class"]


def test_one_image_for_each_class_decides_nothing() -> None:
    with pytest.raises(Inconclusive, match=r"at least 3 different images .* too few have 0 \(1\), 1 \(1\)") as caught:
        split(numbered(1, 1), seed=0)
    assert caught.value.exit_code == 5


def numbered(*counts: int) -> Images:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    names = tuple(f"{label}/{i}" for i, label in enumerate(labels.tolist()))
    return Images(torch.arange(len(labels)).float().view(-1, 1, 1, 1), labels, names)


@pytest.mark.parametrize("counts", [(10, 10), (3, 100), (7, 5, 20), (4, 4, 4)])
def test_splits_are_disjoint_stratified_and_complete(counts: tuple[int, ...]) -> None:
    made = split(numbered(*counts), seed=3)
    parts = [set(p.names) for p in (made.tune, made.choose, made.verify)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == sum(counts)
    for part in (made.tune, made.choose, made.verify):
        assert part.labels.unique().tolist() == list(range(len(counts)))


def test_splits_depend_on_the_seed_alone() -> None:
    first, again, other = (split(numbered(50, 50), seed=seed) for seed in (0, 0, 1))
    assert first.verify.names == again.verify.names
    assert first.verify.names != other.verify.names
    assert [len(p) for p in (first.tune, first.choose, first.verify)] == [50, 20, 30]


def test_two_images_of_a_class_are_too_few() -> None:
    with pytest.raises(Inconclusive, match=r"1 \(2\)"):
        split(numbered(10, 2), seed=0)


def test_copies_do_not_reach_another_split(folder: Path) -> None:
    for i in range(5):
        picture(0).save(folder / "cat" / f"copy{i}.bmp")
    picture(1).save(folder / "dog" / "really a cat.png")
    made = read_samples(folder, CONTRACT, seed=0)
    assert len(made.tune) + len(made.choose) + len(made.verify) == 20
    assert {f.rule for f in made.findings} == {"data-repeated", "data-two-classes"}


def test_a_folder_for_verifying_is_only_verified_on(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("verify")
    for number, name in enumerate(("cat", "dog")):
        (other / name).mkdir()
        picture(500 + number).save(other / name / "new.png")
        picture(100 * number).save(other / name / "seen.png")
    made = read_samples(folder, CONTRACT, seed=0, verify_dir=other)
    assert len(made.verify) == 4
    assert len(made.tune) + len(made.choose) == 18
    assert {f.rule for f in made.findings} == {"data-overlap"}


def test_a_model_that_knows_its_images_passes() -> None:
    check_preprocessing(Rate(80, 100), 10)
    check_preprocessing(Rate(60, 100), 2)
    check_preprocessing(Rate(1, 4), 10)  # too few to say


@pytest.mark.parametrize(("hits", "classes"), [(10, 10), (0, 10), (3, 43)])
def test_a_model_that_guesses_is_refused(hits: int, classes: int) -> None:
    with pytest.raises(BadData, match="preprocessing or the order"):
        check_preprocessing(Rate(hits, 100), classes)


def test_another_order_of_classes_is_found_and_told() -> None:
    confusion = torch.diag(torch.full((4,), 25))[[1, 0, 2, 3]]
    with pytest.raises(BadData, match=r"'b' -> logit 0") as caught:
        check_preprocessing(Rate(50, 100), 4, confusion=confusion, classes=("a", "b", "c", "d"))
    assert "100.0 % would" in caught.value.message
    check_preprocessing(Rate(100, 100), 4, confusion=torch.diag(torch.full((4,), 25)))
