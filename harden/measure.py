"""What a network, or a file, does on images that no decision has read.

Every figure is a count:

    accuracy  #{i : f(x_i) = y_i} / N
    ASR       #{i : f(T(x_i)) = t} / M      over the M images of other classes than the trigger's target t
    RA        #{i : f(T(x_i)) = y_i} / M    the same images, given their true class
    all-to-all            #{i : f(T(x_i)) = t(y_i)} / N, where it is known what the trigger makes of each class
    nobody knows of what  #{i : f(T(x_i)) != y_i, f(x_i) = y_i} / #{i : f(x_i) = y_i}: what is wrong without the
                          trigger, too, is no success of it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harden.counting import count_macs, count_parameters
from harden.network import Classifier, predict
from harden.types import AttackResult, Contract, Images, Measurement, Rate, Trigger

if TYPE_CHECKING:
    from harden_export.runtime import OnnxModel

Answer = Callable[[Tensor], Tensor]
"""Pixels in [0, 1] to logits, (N, C, H, W) to (N, K)."""
BATCH = 128


def measure(model: Classifier, images: Images, triggers: Sequence[Trigger]) -> Measurement:
    """Measures a network."""
    size = model.contract.input_size
    parameters, macs = count_parameters(model.network), count_macs(model.network, size)
    return measure_answers(lambda x: predict(model, x), images, triggers, model.contract, parameters, macs)


def measure_file(model: OnnxModel, contract: Contract, images: Images, triggers: Sequence[Trigger]) -> Measurement:
    """Measures an ONNX file by running it in ONNX Runtime."""
    from harden_export.facts import file_facts

    facts = file_facts(model.path)
    return measure_answers(onnx_answer(model, contract), images, triggers, contract, facts.parameters, facts.macs)


def measure_answers(
    answer: Answer, images: Images, triggers: Sequence[Trigger], contract: Contract, parameters: int, macs: int
) -> Measurement:
    """Measures whatever answers to pixels with logits."""
    said = classes(answer, images)
    labels = images.labels.cpu()
    right = said == labels
    per_class = tuple(
        Rate(int(right[labels == k].sum()), int((labels == k).sum())) for k in range(contract.num_classes)
    )
    return Measurement(
        accuracy=Rate(int(right.sum()), len(images)),
        per_class=per_class,
        attack_success=tuple(attack(answer, images, trigger) for trigger in triggers),
        parameters=parameters,
        macs=macs,
    )


def attack(answer: Answer, images: Images, trigger: Trigger) -> AttackResult:
    """What one trigger does, on the images that it can be put on and that are not of its target already."""
    success = counted = recovered = total = 0
    for part in batches(images):
        if trigger.target is not None:
            part = part.take((part.labels != trigger.target).nonzero().flatten())
        for some, counts in ((part, True),) if trigger.known else rightly_named(answer, part):
            if not len(some):
                continue  # all of the target class: ASR is defined over the others
            triggered = trigger(some)
            if not len(triggered):
                continue  # it has no triggered twins in this batch; the total says how many it had
            said, truth = answer(triggered.pixels).argmax(1).cpu(), triggered.labels.cpu()
            right = said == truth
            if counts:
                success += int((said == trigger.wanted(truth) if trigger.known else ~right).sum())
                counted += len(triggered)
            recovered += int(right.sum())
            total += len(triggered)
    asr, accuracy = Rate(success, counted), Rate(recovered, total)
    return AttackResult(trigger.source, trigger.name, trigger.target, asr, accuracy)


def rightly_named(answer: Answer, images: Images) -> tuple[tuple[Images, bool], tuple[Images, bool]]:
    """The images that are named rightly as they are, and the others."""
    right = classes(answer, images) == images.labels.cpu()
    return (images.take(right.nonzero().flatten()), True), (images.take((~right).nonzero().flatten()), False)


def classes(answer: Answer, images: Images) -> Tensor:
    """The class said to each image, (N,) on the CPU."""
    said = [answer(part.pixels).argmax(1).cpu() for part in batches(images)]
    return torch.cat(said) if said else torch.zeros(0, dtype=torch.long)


def batches(images: Images) -> Iterator[Images]:
    """In their order, so many at a time that neither copies nor triggered twins of all stand in memory together."""
    for index in torch.arange(len(images)).split(BATCH) if len(images) else ():
        yield images.take(index)


def onnx_answer(model: OnnxModel, contract: Contract) -> Answer:
    """An ONNX file as a function of pixels: normalised outside of it, unless it was made to take bytes."""
    import numpy as np

    mean = torch.tensor(contract.mean).view(1, -1, 1, 1)
    std = torch.tensor(contract.std).view(1, -1, 1, 1)

    def answer(pixels: Tensor) -> Tensor:
        if model.input_type is np.uint8:
            ready = (pixels.cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        else:
            ready = (pixels.cpu() - mean) / std
        return torch.from_numpy(model(ready.contiguous().numpy()))

    return answer
