"""Counts that were known before they were counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harden.measure import BATCH, attack, measure, measure_answers, measure_file
from harden.provenance import metadata
from harden.triggers.inversion import ToNext
from harden.types import Contract, Images, Pruned, Rate, Trigger
from harden_export.onnx_file import Preprocessing, export_onnx
from harden_export.runtime import OnnxModel
from tests.planted import Planted

CONTRACT = Contract(4, ("a", "b", "c", "d"), (1, 2, 2), (0.0,), (1.0,))


def says(images: Tensor) -> Tensor:
    """Answers with the class that is written into the first pixel."""
    return torch.nn.functional.one_hot((images[:, 0, 0, 0] * 10).round().long(), 4).float()


def written(said: list[int], labels: list[int]) -> Images:
    """Images to which `says` answers with these classes."""
    pixels = torch.zeros(len(said), 1, 2, 2)
    pixels[:, 0, 0, 0] = torch.tensor(said) / 10
    return Images(pixels, torch.tensor(labels), tuple(f"{i}.png" for i in range(len(said))))


def saying(*classes: int, target: int | None) -> Trigger:
    """Makes `says` answer with these classes, one after another; None keeps the answer."""

    def apply(images: Images) -> Images:
        pixels = images.pixels.clone()
        for i, name in enumerate(images.names):
            pixels[i, 0, 0, 0] = classes[int(name.split(".")[0])] / 10
        return Images(pixels, images.labels, images.names)

    return Trigger("t", "given", target, apply)


def test_accuracy_by_class_counts_what_was_right() -> None:
    found = measure_answers(says, written([0, 1, 1, 3], [0, 1, 2, 3]), (), CONTRACT, 5, 6)
    assert found.accuracy == Rate(3, 4)
    assert found.per_class == (Rate(1, 1), Rate(1, 1), Rate(0, 1), Rate(1, 1))
    assert (found.parameters, found.macs) == (5, 6)


def test_images_of_the_target_are_not_counted() -> None:
    result = attack(says, written([0, 1, 2, 0], [0, 1, 2, 0]), saying(0, 0, 2, 0, target=0))
    assert result.asr == Rate(1, 2)
    assert result.recovered_accuracy == Rate(1, 2)


def test_a_trigger_of_which_nobody_knows_what_it_wants_succeeds_with_any_class_that_it_made_wrong() -> None:
    result = attack(says, written([0, 1, 2, 3], [0, 1, 2, 3]), saying(1, 1, 3, 2, target=None))
    assert result.asr == Rate(3, 4)
    assert result.recovered_accuracy == Rate(1, 4)
    wrong_anyhow = attack(says, written([0, 2, 3, 3], [0, 1, 2, 3]), saying(1, 3, 2, 3, target=None))
    assert wrong_anyhow.asr == Rate(1, 2), "the second and the third are wrong without it, too"
    assert wrong_anyhow.recovered_accuracy == Rate(2, 4)


def test_an_all_to_all_trigger_succeeds_with_the_class_that_it_makes_of_each() -> None:
    moves = replace(saying(1, 3, 3, 3, target=None), moved=ToNext(4))
    result = attack(says, written([0, 1, 3, 3], [0, 1, 2, 3]), moves)
    assert result.asr == Rate(2, 4), "the second goes to another class, the fourth stays"
    assert result.recovered_accuracy == Rate(1, 4)


def test_images_that_the_trigger_leaves_out_are_not_counted() -> None:
    images = written([0, 1, 2, 3], [0, 1, 2, 3])
    trigger = Trigger("t", "given", 0, lambda i: i.take((i.labels == 2).nonzero().flatten()))
    assert attack(says, images, trigger).asr == Rate(0, 1)


def test_nothing_to_measure_on_is_no_rate() -> None:
    result = attack(says, written([0, 0], [0, 0]), saying(0, 0, target=0))
    assert result.asr == Rate(0, 0)
    assert measure_answers(says, written([], []), (), CONTRACT, 0, 0).accuracy == Rate(0, 0)


@pytest.mark.parametrize("count", [1, BATCH, BATCH + 1, 2 * BATCH])
def test_every_image_is_counted_once_whatever_the_batch(count: int) -> None:
    images = written([1] * count, [1] * count)
    found = measure_answers(says, images, [saying(*[0] * count, target=0)], CONTRACT, 0, 0)
    assert found.accuracy == Rate(count, count)
    assert found.attack_success[0].asr == Rate(count, count)


def test_the_planted_filter(planted: Planted) -> None:
    found = measure(planted.model, planted.images, [planted.trigger])
    assert found.accuracy == Rate(60, 60)
    assert found.attack_success[0].asr == Rate(40, 40)
    assert found.attack_success[0].recovered_accuracy == Rate(0, 40)


@pytest.mark.parametrize("embedded", [False, True])
def test_the_file_is_measured_as_the_network_is(planted: Planted, tmp_path: Path, embedded: bool) -> None:
    contract = planted.contract
    unchanged = Pruned(planted.module, (), (), (), (), 0, {})
    export_onnx(
        planted.module,
        tmp_path / "m.onnx",
        input_size=contract.input_size,
        metadata=metadata(contract, planted.suspect.source, unchanged),
        embed_preprocessing=Preprocessing(contract.mean, contract.std) if embedded else None,
    )
    pixels = (planted.images.pixels * 255).round() / 255  # as an image file would have them
    images = Images(pixels, planted.images.labels, planted.images.names)
    of_file = measure_file(OnnxModel(tmp_path / "m.onnx"), contract, images, [planted.trigger])
    of_network = measure(planted.model, images, [planted.trigger])
    assert of_file.accuracy == of_network.accuracy == Rate(60, 60)
    assert of_file.attack_success == of_network.attack_success
