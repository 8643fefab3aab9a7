"""The bench: what it reads, what it runs, what it writes; on the planted network in a zoo of its own."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harden.bench import bench
from harden.bench.cell import draw, method_of, run_cell
from harden.bench.row import Cell, Numbers, Row, read, save
from harden.bench.spec import parse, separate
from harden.bench.tables import as_csv, as_markdown
from harden.bench.zoo import read_zoo
from harden.errors import UsageError
from harden.methods import METHODS
from harden.triggers import nothing
from harden.types import Rate
from tests.planted import pictures, planted, save_pictures

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted network with its trigger, the same as a control with none, and a file that is no model."""
    folder = tmp_path_factory.mktemp("zoo")
    save_pictures(pictures(20, 0), folder / "clean")
    save_pictures(pictures(10, 1), folder / "test")
    torch.save(planted().module.state_dict(), folder / "planted.pt")
    (folder / "broken.pt").write_bytes(b"not a model")
    (folder / "nets.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.planted import PlantedNet\n"
        "def net(num_classes=3):\n    return PlantedNet(num_classes)\n"
    )
    (folder / "triggers.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.planted import stamp\n"
        "def board():\n    return stamp\n"
    )
    common = (
        'arch = "nets.py:net"\nnum_classes = 3\ninput_size = [3, 16, 16]\ndata = "own"\n'
        "mean = [0.25, 0.25, 0.25]\nstd = [0.5, 0.5, 0.5]\n"
    )
    attacked = 'trigger = "triggers.py:board"\ntarget = 0\n'
    (folder / "zoo.toml").write_text(
        '[data.own]\nclean = "clean"\ntest = "test"\n'
        f'[[model]]\nname = "planted"\nweights = "planted.pt"\n{common}{attacked}'
        f'[[model]]\nname = "control"\nweights = "planted.pt"\n{common}'
        f'[[model]]\nname = "broken"\nweights = "broken.pt"\n{common}{attacked}'
    )
    order = 'classes = ["red", "green", "blue"]\n'
    (folder / "model.toml").write_text(f"[model]\n{order}")
    return folder / "zoo.toml"


def test_a_cell_measures_the_truth(zoo: Path) -> None:
    model = read_zoo(zoo)[0]
    row = run_cell(model, Cell("planted", "clp", 10, 0))
    assert row.before is not None
    assert row.before.accuracy == Rate(30, 30)
    assert row.before.asr == Rate(20, 20)
    assert row.before.recovered == Rate(0, 20)
    assert row.forward_images < 1000  # measuring is not on the method's bill


def test_given_methods_get_the_true_trigger_and_others_do_not(zoo: Path) -> None:
    model = read_zoo(zoo)[0]
    told = run_cell(model, Cell("planted", "grad-prune:given", 10, 0))
    assert told.scan_status == "backdoored"
    assert told.after is not None
    assert told.after.asr is not None
    assert told.after.asr.value < 0.1
    assert told.filters_removed > 0
    assert told.der is not None
    assert told.der > 0.95
    untold = run_cell(model, Cell("planted", "ft:epochs=1", 10, 0))
    assert untold.scan_status == "inconclusive"
    assert not untold.scanned
    assert untold.filters_removed == 0


def test_a_bench_prunes_what_a_method_leaves_dead(zoo: Path) -> None:
    row = run_cell(read_zoo(zoo)[0], Cell("planted", "ft:epochs=1,prune", 10, 0))
    assert (row.filters_removed, row.filters_total) == (8, 24)
    assert row.before is not None
    assert row.after is not None
    assert row.after.parameters < row.before.parameters
    assert row.after.asr == Rate(0, 20)  # the backdoor's filter sleeps on clean pictures


def test_a_bench_keeps_every_cell_goes_on_and_turns_failures_into_rows(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = bench(zoo, out, ["clp"], clean_per_class=[6], seeds=[0], models=["planted", "broken"], jobs=2)
    good, bad = rows
    assert not good.error
    assert bad.error
    assert bad.before is None
    stored = out / good.cell.file
    marked = json.loads(stored.read_text())
    marked["scan_why"] = "kept"
    stored.write_text(json.dumps(marked))
    again = bench(zoo, out, ["clp"], clean_per_class=[6], seeds=[0], models=["planted"], jobs=2)
    assert again[0].scan_why == "kept"
    other = bench(zoo, out, ["clp"], clean_per_class=[6], seeds=[0], models=["planted"], time_budget=60)
    assert other[0].scan_why != "kept"  # another setting, another key
    assert {p.name for p in out.iterdir()} == {"cells", "results.csv", "results.json", "results.md"}


def test_images_are_drawn_by_the_seed_and_never_twice() -> None:
    images = pictures(20)
    splits = draw(images, 10, 0)
    names = [*splits.tune.names, *splits.choose.names, *splits.verify.names]
    assert len(names) == len(set(names)) == 30
    assert draw(images, 10, 0).tune.names == splits.tune.names
    assert draw(images, 10, 1).tune.names != splits.tune.names


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ftt", "Did you mean 'ft'"),
        ("ft:epoch=3", "Did you mean 'epochs'"),
        ("ft:quick", "SETTING=VALUE"),
        ("ft:prunes", "'prune'"),
        ("ft:recover=autp", "Did you mean 'auto'"),
        ("ft:given,recover=auto", "need not be looked for"),
    ],
)
def test_a_method_that_is_not_there_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse(text, METHODS)


def test_a_method_is_given_the_eyes_of_another() -> None:
    mixture = method_of(parse("grad-prune:recover=auto", METHODS), None)
    assert mixture.recover == METHODS["auto"]().recover
    assert mixture.prune == METHODS["grad-prune"]().prune


def test_settings_are_read_as_what_they_are() -> None:
    spec = parse("sau:given,published=paper,epochs=3,freeze-norm=false", METHODS)
    assert spec.given
    assert not spec.prune
    assert parse("ft:prune", METHODS).prune
    assert spec.settings == {"published": "paper", "epochs": 3, "freeze_norm": False}
    assert separate("ft:epochs=3,rate=0.1,sau, clp", METHODS) == ["ft:epochs=3,rate=0.1", "sau", "clp"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("[data.own]", "[data.other]"), "no \\[data.own\\]"),
        (("weights =", "weight ="), "weights"),
        (('name = "control"', 'name = "planted"'), "twice"),
        (("[[model]]", "[[model"), "cannot be read"),
    ],
)
def test_a_zoo_that_is_wrong_says_where(zoo: Path, tmp_path: Path, change: tuple[str, str], reason: str) -> None:
    wrong = tmp_path / "zoo.toml"
    wrong.write_text(zoo.read_text().replace(*change))
    with pytest.raises(UsageError, match=reason):
        read_zoo(wrong)


def example(model: str, asr: int, acc: int, *, seed: int = 0, error: str = "") -> Row:
    before = Numbers(Rate(90, 100), Rate(100, 100), Rate(0, 100), 0.8, 1000, 5000)
    after = Numbers(Rate(acc, 100), Rate(asr, 100), Rate(80, 100), 0.7, 900, 4000)
    cell = Cell(model, "x", 10, seed)
    if error:
        return Row(cell, "key", True, 0, error=error)
    return Row(cell, "key", True, 0, before=before, after=after, scan_status="backdoored", scan_targets=(0,), seconds=2)


def test_effectiveness_by_its_formula() -> None:
    row = example("a", asr=20, acc=80)
    assert row.der == pytest.approx((0.8 - 0.1 + 1) / 2)
    assert example("a", asr=100, acc=95).der == pytest.approx(0.5)  # a gain in accuracy is no credit


def test_tables_show_means_worst_cases_and_failures() -> None:
    rows = [example("a", 20, 80), example("b", 0, 90), example("b", 0, 90, seed=1, error="no memory\nmore")]
    text = as_markdown(rows)
    assert "| `x` | 2 (1 failed) | 10.0 | 20.0 | 5.0 | 10.0 | 88.9 |" in text
    assert "b, x, 10 per class, seed 1: no memory" in text
    lines = list(csv.DictReader(as_csv(rows).splitlines()))
    assert [line["asr_after"] for line in lines[:2]] == ["20.0", "0.0"]


def test_next_to_nothing_won_is_not_a_loss_of_minus_nothing() -> None:
    row = example("a", 20, 90)
    assert row.after is not None
    text = as_markdown([replace(row, after=replace(row.after, accuracy=Rate(9002, 10_000)))])
    assert "| 0.0 |" in text
    assert "-0.0" not in text


@pytest.mark.parametrize(
    ("method", "why", "shown"),
    [("auto", "found", "1/1"), ("clp", nothing.WHY, "-"), ("grad-prune:epochs=3,given", "it works", "-")],
)
def test_the_verdict_of_a_scan_is_only_counted_where_one_was_made(method: str, why: str, shown: str) -> None:
    row = example("a", 20, 80)
    row = replace(row, cell=replace(row.cell, method=method), scan_why=why)
    head, _, line = as_markdown([row]).splitlines()[2:5]
    assert dict(zip(head.split(" | "), line.split(" | "), strict=True))["scan right"] == shown
    (told,) = csv.DictReader(as_csv([row]).splitlines())
    assert (told["scan_right"], told["scan_status"]) == (("", "") if shown == "-" else ("True", "backdoored"))


def test_a_row_is_read_back_as_it_was(tmp_path: Path) -> None:
    row = example("a", 20, 80)
    save(row, tmp_path / "row.json")
    assert read(tmp_path / "row.json") == row
    (tmp_path / "row.json").write_text("{")
    assert read(tmp_path / "row.json") is None
