"""From names and settings to methods and back: what a plan writes down makes the same method again."""

from __future__ import annotations

import pytest

from harden.errors import UsageError
from harden.registry import find, known, settings_of


def test_one_of_several_parts_is_chosen_and_set_by_its_name() -> None:
    families = [{"name": "warp", "points": 4}, {"name": "patch"}]
    method = find("auto", {"recover": {"families": families}})
    assert [(f.name, getattr(f, "points", None)) for f in method.recover.families] == [("warp", 4), ("patch", None)]  # type: ignore[attr-defined]


def test_the_settings_of_every_method_make_the_same_method_again() -> None:
    for name in known():
        assert settings_of(find(name, settings_of(find(name)))) == settings_of(find(name))


def test_a_method_may_look_for_triggers_as_another_does() -> None:
    mixture, own, other = find("grad-prune", recover="auto"), find("grad-prune"), find("auto")
    assert (mixture.recover, mixture.prune, mixture.repair) == (other.recover, own.prune, own.repair)
    assert find("grad-prune", {"recover": {"glance": 5}}, recover="auto").recover.glance == 5  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="auto"):
        find("grad-prune", recover="atuo")


def test_a_part_of_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="warp"):
        find("auto", {"recover": {"families": [{"name": "wrap"}]}})
