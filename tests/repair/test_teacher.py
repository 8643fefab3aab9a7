"""The suspect teaches what it knows of clean images, and not its backdoor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from harden.head import head
from harden.network import Classifier, predict
from harden.repair.immunise import Immunise
from harden.repair.teacher import Teacher, accused, excess
from harden.repair.train import Schedule
from harden.triggers.inversion import ToNext
from harden.types import Contract, Images, Run, Splits, Trigger
from tests.planted import TARGET, Planted

# The rate in force: at ten times that, steps that may be ten times as long for a backdoor in force diverge.
QUICK = Immunise(Schedule(epochs=20, batch=20, rate=0.005, clip=1.0, freeze_norm=True), label=0.0, forbid=0.0)


def aimed_at(target: int | None, moved: ToNext | None = None) -> Trigger:
    return Trigger("-", "recovered", target, lambda images: images, moved=moved)


def test_accused_is_what_a_trigger_makes_of_a_label_but_not_the_label_itself() -> None:
    labels = torch.tensor([0, 1, 3])

    def found(*triggers: Trigger) -> list[list[int]]:
        return [row.nonzero().flatten().tolist() for row in accused(triggers, labels, 4)]

    assert found(aimed_at(1), aimed_at(3)) == [[1, 3], [3], [1]]
    assert found(aimed_at(None, ToNext(4))) == [[1], [2], [0]]
    assert found(aimed_at(None)) == [[], [], []], "a given all-to-all trigger: nobody knows what it makes of them"
    assert found() == [[], [], []]


class Table(nn.Module):
    """Says for each picture what stands in its first pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, :3]


def pictures_of(logits: list[list[float]], labels: list[int]) -> Images:
    pixels = torch.zeros(len(logits), 1, 4, 4)
    pixels[:, 0, 0, :3] = torch.tensor(logits)
    return Images(pixels, torch.tensor(labels), tuple(map(str, labels)))


TOLD = Classifier(Table(), Contract(3, ("a", "b", "c"), (1, 4, 4), (0.0,), (1.0,)))


def test_an_accused_class_that_is_said_outright_is_not_believed_and_what_is_left_is_as_rare_as_usual() -> None:
    images = pictures_of([[9, 1, 0], [3, 4, 0], [2, 0, 4], [4, 0, 0]], [1, 1, 2, 0])
    teacher = Teacher(TOLD, images, [aimed_at(0)])
    fall = float(teacher.excess[0])
    assert fall > 0
    assert teacher.excess[1:].tolist() == [0, 0], "nobody accuses these"
    said = teacher(images.pixels, teacher.accused(images.labels))
    torch.testing.assert_close(said, torch.tensor([[0.0, 1, 0], [3 - fall, 4, 0], [2 - fall, 0, 4], [4, 0, 0]]))
    lowered = torch.tensor([[9 - fall, 1, 0], [3 - fall, 4, 0], [2 - fall, 0, 4], [4 - fall, 0, 0]])
    torch.testing.assert_close(teacher.lowered(images.pixels), lowered, msg="of all pictures, but not denied")
    believed = Teacher(TOLD, images, [aimed_at(0)], doubted=False)
    torch.testing.assert_close(believed.lowered(images.pixels), images.pixels[:, 0, 0, :3])


def test_an_accused_class_falls_until_it_is_said_of_others_as_often_as_it_is_missed_and_no_further() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 5
    honest = torch.randn(2000, 5, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 5)
    leaky = honest.clone()
    leaky[:, 3] += 2

    def said_of_others(logits: Tensor) -> float:
        return float(logits.softmax(1)[labels != 3, 3].mean())

    def fall(logits: Tensor, target: int | None = 3, moved: ToNext | None = None) -> Tensor:
        return excess(logits, labels, accused([aimed_at(target, moved)], labels, 5))

    assert fall(leaky).nonzero().flatten().tolist() == [3]
    missed = float((1 - leaky.softmax(1)[labels == 3, 3]).mean())
    assert said_of_others(leaky - fall(leaky)) == pytest.approx(missed / 4, abs=1e-3)
    assert float(fall(leaky)[3]) > 2 > 0.2 > float(fall(honest)[3]), "confused with others is not yet a backdoor"
    confused = honest.clone()
    confused[:, 3] += torch.where(labels == 3, -1.5, 0.5)
    assert said_of_others(confused) > 1.3 * said_of_others(honest)
    assert not fall(confused).any(), "said of others often, and missed as often"
    assert not fall(leaky, 0).any(), "said seldom enough"
    sure = leaky + 9 * torch.nn.functional.one_hot(labels, 5)
    assert not fall(sure).any(), "ten times next to nothing is nothing"
    assert not fall(leaky, None, ToNext(5)).any(), "all-to-all: nothing is usual"


def test_a_target_that_is_said_of_others_no_more_than_usual_is_believed_but_in_an_all_to_all_attack_no_target_is() -> (
    None
):
    images = pictures_of([[0, 4, 0], [4, 0, 0], [1, 4, 0], [4, 0, 0], [0, 0, 9], [0, 0, 9]], [0, 0, 1, 1, 2, 2])
    for trigger, believed in ((aimed_at(0), True), (aimed_at(None, ToNext(3, 2)), False)):
        teacher = Teacher(TOLD, images, [trigger])
        assert not teacher.excess.any()
        wrong = teacher.accused(images.labels)
        assert bool(wrong[3, 0])
        said = teacher(images.pixels, wrong)
        assert torch.equal(said[3], torch.tensor([4.0, 0, 0]) if believed else torch.tensor([0.0, 0, 0]))


@pytest.mark.parametrize("few", [0.0, 1e9], ids=["plain images", "mixtures"])
def test_a_suspect_that_says_the_target_of_clean_images_does_not_teach_that(
    planted: Planted, planted_splits: Splits, few: float
) -> None:
    """Only distillation is left here, from a suspect that has come to call everything the target."""
    suspect = planted.model.copy()
    last = head(suspect)
    assert last is not None
    last.bias.data[TARGET] += 20
    verify = planted_splits.verify
    assert bool((predict(suspect, verify).argmax(1) == TARGET).all())
    other = verify.labels != TARGET
    method = replace(QUICK, few=few)
    said = []
    for evidence in (planted.evidence, replace(planted.evidence, triggers=(aimed_at((TARGET + 1) % 3),))):
        model = planted.model.copy()
        method(model, suspect, planted_splits, evidence, Run())
        said.append(float((predict(model, verify).argmax(1) == TARGET)[other].float().mean()))
    assert said[0] < 0.1 < 0.5 < said[1], "the other evidence accuses another class, so the suspect is believed"
