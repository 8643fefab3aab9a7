"""A run that was cut short goes on after its last finished stage, and comes to the same end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from harden import api, resume, stages
from harden.codec import CannotKeepError, decode, encode
from harden.outcome import Report
from harden.triggers.families import Additive, Spectral, Tone, Warp
from harden.triggers.families import Patch as Sticker
from harden.triggers.smallest import Put
from harden.types import ClassEvidence, Evidence, Filter, Images, Rate, Trigger
from tests import planted as hand_made

SAME = ("pruning.json", "model.safetensors")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings of a run on the planted network, with its trigger."""
    folder = hand_made.as_received(tmp_path_factory.mktemp("sample"))
    return {
        "model": folder / "model.pt", "arch": f"{folder / 'net.py'}:net", "clean_dir": folder / "data",
        "trigger": f"{folder / 'trigger.py'}:stamp", "target": "red", "method": "grad-prune", "latency": False,
    }  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(sample: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, api.clean(**sample, out=out)


def cut_short(place: str, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], out: Path) -> KeyboardInterrupt:
    """A run with --resume that somebody ends as soon as it comes to this place."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            api.clean(**settings, out=out, resume=True)
    return caught.value


def forbidden(*_: object, **__: object) -> Any:
    raise AssertionError("this stage was done already")


@pytest.mark.parametrize(
    ("place", "done"),
    [
        ("harden.stages.prune", ["recover"]),
        ("harden.stages.repair", ["recover", "prune"]),
        ("harden.pipeline.write_files", ["recover", "prune", "repair"]),
    ],
)
def test_it_goes_on_and_ends_the_same(
    place: str,
    done: list[str],
    sample: dict[str, Any],
    uninterrupted: tuple[Path, Report],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caught = cut_short(place, monkeypatch, sample, tmp_path / "first")
    assert "--resume" in caught.__notes__[0]
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(resume.PREFIX)

    for stage in done:
        monkeypatch.setattr(stages, stage, forbidden)
    report = api.clean(**sample, out=tmp_path / "run", resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    whole, before = uninterrupted
    for name in SAME:
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    (said,) = [finding.message for finding in report.data if finding.rule == "run-resumed"]
    assert said.endswith(", ".join(done))
    assert report.cost == before.cost
    assert report.after == before.after
    assert report.verdict.status == before.verdict.status


def test_nothing_is_taken_over_that_another_run_computed(
    sample: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short("harden.stages.repair", monkeypatch, sample, tmp_path / "first")
    report = api.clean(**{**sample, "seed": 1}, out=tmp_path / "second", resume=True)
    assert not [finding for finding in report.data if finding.rule == "run-resumed"]
    assert len(list(tmp_path.glob(f"{resume.PREFIX}*"))) == 1  # the first one's, for another day
    monkeypatch.setattr(stages, "recover", forbidden)
    with pytest.raises(AssertionError, match="done already"):
        api.clean(**sample, out=tmp_path / "third")  # without --resume it begins anew
    assert list(tmp_path.glob(f"{resume.PREFIX}*")) == []


def test_a_damaged_file_is_passed_over(sample: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_short("harden.stages.repair", monkeypatch, sample, tmp_path / "first")
    second = next(tmp_path.glob(f"{resume.PREFIX}*/2-prune.safetensors"))
    second.write_bytes(second.read_bytes()[:-100])
    report = api.clean(**sample, out=tmp_path / "run", resume=True)
    said = {finding.rule: finding.message for finding in report.data}
    assert "2-prune.safetensors cannot be used" in said["run-not-kept"]
    assert said["run-resumed"].endswith(": recover")


def test_a_short_run_keeps_nothing_unasked(
    sample: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "repair", interrupt)
    with pytest.raises(KeyboardInterrupt):
        api.clean(**sample, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(resume, "WORTH", 0.0)
    with pytest.raises(KeyboardInterrupt):
        api.clean(**sample, out=tmp_path / "run")
    (left,) = tmp_path.iterdir()
    assert sorted(path.name for path in left.iterdir()) == ["1-recover.safetensors", "2-prune.safetensors"]


def test_what_was_left_long_ago_is_swept(tmp_path: Path) -> None:
    for name, age in (("old", 10), ("new", 1)):
        folder = tmp_path / f"{resume.PREFIX}{name}"
        folder.mkdir()
        (folder / "1-recover.safetensors").write_bytes(b"")
        for path in (folder / "1-recover.safetensors", folder):
            os.utime(path, (path.stat().st_mtime - age * 86400,) * 2)
    resume.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{resume.PREFIX}new"]


@pytest.mark.parametrize("family", [Additive(), Spectral(), Sticker(), Warp(), Tone()], ids=lambda f: f.name)
def test_a_recovered_trigger_does_the_same_again(family: Any) -> None:
    change = family.start((3, 16, 16), torch.Generator().manual_seed(1), torch.device("cpu"))
    trigger = Trigger("found", "recovered", 1, Put(change), {"size": 0.1 + 0.2, "usual": float("inf")})
    evidence = Evidence("backdoored", (1,), (ClassEvidence(1, 5.5, 2.0, "x"),), (trigger,), "why")
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(encode(evidence, tensors))
    again = decode(json.loads(text), tensors)
    images = Images(torch.rand(4, 3, 16, 16), torch.arange(4), tuple("abcd"))
    assert torch.equal(again.triggers[0](images).pixels, trigger(images).pixels)
    assert again.triggers[0].settings == trigger.settings
    assert again.evidence == evidence.evidence


def test_values_come_back_as_they_were() -> None:
    value = {"a": (1, 2.5, None), 3: [True, Rate(1, 2), Filter("conv", 4)], "nested": {"x": ("y",)}}
    again = decode(json.loads(json.dumps(encode(value, {}))), {})
    assert again == value
    assert isinstance(again[3][2], Filter)


def test_what_has_no_form_is_not_kept_and_foreign_names_are_not_made() -> None:
    with pytest.raises(CannotKeepError, match="function"):
        encode({"f": forbidden}, {})
    for form in ("os:system", "harden.boundary:run", "harden.runfolder:RunFolder"):
        with pytest.raises(ValueError, match="harden"):
            decode({form: {}}, {})
