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


def test_a_part_of_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="warp"):
        find("auto", {"recover": {"families": [{"name": "wrap"}]}})
