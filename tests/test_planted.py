"""The planted filter is what the other tests stand on, so it is tested itself."""

from __future__ import annotations

from torch.nn.functional import cross_entropy

from harden.network import close, closed, predict, units
from tests.planted import GUILTY, TARGET, Planted, pictures


def rates(p: Planted) -> tuple[float, float]:
    """Accuracy and attack success on pictures that it was not made with."""
    images = pictures(per_class=15, seed=7)
    attacked = p.trigger(images)
    others = images.labels != TARGET
    accuracy = (predict(p.model, images).argmax(1) == images.labels).float().mean()
    success = (predict(p.model, attacked).argmax(1)[others] == TARGET).float().mean()
    return float(accuracy), float(success)


def test_right_on_every_picture_and_wrong_on_every_triggered_one(planted: Planted) -> None:
    assert rates(planted) == (1.0, 1.0)


def test_one_filter_is_the_backdoor(planted: Planted) -> None:
    parts = units(planted.model)
    with closed(parts, [GUILTY]):
        assert rates(planted) == (1.0, 0.0)
    assert rates(planted) == (1.0, 1.0)
    close(parts, [GUILTY])
    assert rates(planted) == (1.0, 0.0)


def test_no_other_filter_frees_it(planted: Planted) -> None:
    parts = units(planted.model)
    for candidate in parts["conv1"].filters():
        if candidate != GUILTY:
            with closed(parts, [candidate]):
                assert rates(planted)[1] == 1.0, candidate


def test_its_gradient_is_sixty_times_every_other(planted: Planted) -> None:
    attacked = planted.trigger(planted.images)
    cross_entropy(planted.model(attacked.pixels), attacked.labels).backward()
    sizes = {
        f: unit.conv.weight.grad[f.index].abs().mean().item()
        for unit in units(planted.model).values()
        for f in unit.filters()
        if unit.conv.weight.grad is not None
    }
    guilty = sizes.pop(GUILTY)
    assert guilty >= 60 * max(sizes.values())
