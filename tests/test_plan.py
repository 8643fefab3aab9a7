"""Flags beat the plan, the plan beats the defaults, and nothing unknown is swallowed."""

from __future__ import annotations

import math
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harden.errors import UsageError
from harden.plan import KINDS, Plan, plan_text, settle
from harden.policy import READY
from harden.toml import dumps

FULL = """
model = "model.pt"
clean_dir = "data"
arch = "net.py:net"
trigger = "pictures/t.png"
target = 3
seed = 5
time_budget = "2m"
mean = [0.1, 0.2, 0.3]
[method]
name = "grad-prune"
[method.prune]
rounds = 5
[policy]
min_images = 7
"""


def plan_file(folder: Path, text: str = FULL) -> Path:
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_beat_the_plan_and_the_plan_beats_the_defaults(tmp_path: Path) -> None:
    plan = settle({"seed": 9, "align": None}, plan_file(tmp_path))
    assert (plan.seed, plan.method, plan.align) == (9, "grad-prune", Plan().align)
    assert plan.method_settings == {"prune": {"rounds": 5}}
    assert plan.policy.min_images == 7
    assert plan.time_budget == 120
    assert plan.target == "3"
    assert plan.origins["seed"] == "flag"
    assert plan.origins["method"] == f"plan {tmp_path / 'plan.toml'}"
    assert "align" not in plan.origins


def test_a_method_flag_drops_nothing_else_of_the_plan(tmp_path: Path) -> None:
    assert settle({"method": "ft"}, plan_file(tmp_path)).policy.min_images == 7


def test_paths_in_a_plan_are_relative_to_it_and_flags_to_the_shell(tmp_path: Path) -> None:
    plan = settle({"verify_dir": Path("v")}, plan_file(tmp_path))
    assert plan.model == tmp_path / "model.pt"
    assert plan.arch == f"{tmp_path / 'net.py'}:net"
    assert plan.trigger == str(tmp_path / "pictures/t.png")
    assert plan.verify_dir == Path("v")


def test_an_architecture_by_name_is_no_path(tmp_path: Path) -> None:
    assert settle({}, plan_file(tmp_path, 'arch = "torchvision:resnet18"')).arch == "torchvision:resnet18"


def test_what_is_written_reads_back_as_the_same_plan(tmp_path: Path) -> None:
    plan = settle({"policy": "strict", "blend": 0.5}, plan_file(tmp_path))
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "plan.toml").write_text(plan_text(plan, run), encoding="utf-8")
    again = settle({}, run / "plan.toml")
    for key in [*KINDS, "method_settings"]:
        if key not in ("model", "clean_dir", "arch", "trigger"):
            assert getattr(again, key) == getattr(plan, key), key
    assert again.model is not None
    assert again.model.resolve() == (tmp_path / "model.pt").resolve()
    assert again.policy == READY["strict"]


def test_every_setting_has_a_kind_and_every_kind_a_setting() -> None:
    not_asked_for = {"method_settings", "policy_name", "origins"}
    assert set(KINDS) == set(Plan.__dataclass_fields__) - not_asked_for


def test_the_text_says_where_each_setting_came_from(tmp_path: Path) -> None:
    text = plan_text(settle({"seed": 9}, plan_file(tmp_path)))
    assert "seed = 9  # flag" in text
    assert "align = 8  # default" in text
    tomllib.loads(text)


@pytest.mark.parametrize(
    ("flags", "text", "said"),
    [
        ({}, "cleen_dir = 'x'", "Did you mean 'clean_dir'?"),
        ({}, "seed = 'x'", "whole number"),
        ({"seed": -1}, "", "at least 0"),
        ({}, "method = 3\n[method.prune]", "not valid TOML"),
        ({}, "[method]\nrounds = 3", "[method.prune]"),
        ({"time_budget": "soon"}, "", "90s, 15m or 2h"),
        ({"mean": "a,b"}, "", "numbers"),
        ({"device": "tpu"}, "", "cpu, cuda or auto"),
        ({"trigger": "a.png", "trigger_dir": Path("b")}, "", "one form"),
        ({"mask": Path("m.png")}, "", "no --trigger"),
        ({"blend": 1.5}, "", "0 to 1"),
        ({"kinds": "fp32,int9"}, "", "Did you mean 'int8'?"),
        ({"max_int8_drop": 101.0}, "", "points of accuracy from 0 to 100"),
        ({"max_drop": -1.0}, "", "points of accuracy from 0 to 100"),
        ({"target_speedup": 0.5}, "", "at least 1"),
        ({"max_size": "2 miles"}, "", "500kB or 2MB"),
        ({}, "[policy]\nmin_image = 3", "Did you mean 'min_images'?"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, flags: dict[str, Any], text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        settle(flags, plan_file(tmp_path, text))
    assert said in str(error.value)


@pytest.mark.parametrize(("asked", "kinds"), [("int8", ("fp32", "int8")), ("pt2, fp32", ("fp32", "pt2"))])
def test_fp32_is_always_among_the_kinds(asked: str, kinds: tuple[str, ...], tmp_path: Path) -> None:
    assert settle({"kinds": asked}).kinds == kinds
    assert settle({}, plan_file(tmp_path, f"kinds = {list(kinds)}")).kinds == kinds


def test_what_int8_may_lose_becomes_a_bound_of_the_policy(tmp_path: Path) -> None:
    plan = settle({"max_int8_drop": 1.5}, plan_file(tmp_path, 'policy = "strict"'))
    assert plan.policy == replace(READY["strict"], max_int8_drop=0.015)
    again = tmp_path / "again"
    again.mkdir()
    assert settle({}, plan_file(again, plan_text(plan, again))).policy == plan.policy


@pytest.mark.parametrize(("asked", "count"), [("2MB", 2_000_000), ("1.5 kb", 1500), ("300", 300), (300, 300)])
def test_a_size_is_also_what_the_policy_lets_ship(asked: Any, count: int, tmp_path: Path) -> None:
    plan = settle({"max_size": asked})
    assert (plan.max_size, plan.policy.max_bytes) == (count, count)
    again = settle({}, plan_file(tmp_path, plan_text(plan, tmp_path)))
    assert (again.max_size, again.policy.max_bytes) == (count, count)


def test_a_signing_key_is_told_to_nobody() -> None:
    assert "key.pem" not in plan_text(settle({"sign_key": Path("key.pem")}))


def test_input_size_may_be_written_with_x() -> None:
    assert settle({"input_size": "3x32x32"}).input_size == (3, 32, 32)


@pytest.mark.parametrize(
    "table",
    [
        {"a": 'quote " and \\ and \n', "b": [1, 2.5, True], "c": {"d e": {"f": "x"}}},
        {"big": 10**20, "tiny": 1e-300, "inf": math.inf, "del": "\x7f\x00\u2028", "list": []},
        {"t": [{"a": 1}, {"a": 2, "b": {"c": 3}}], "z": 1},
    ],
)
def test_toml_reads_back_as_it_was_written(table: dict[str, Any]) -> None:
    assert tomllib.loads(dumps(table)) == table
