"""A run that was cut short goes on after its last finished stage, and comes to the same end."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from harden import api, resume, stages
from harden.codec import CannotKeepError, decode, encode
from harden.job import Job
from harden.network import Classifier
from harden.outcome import Report
from harden.plan import Plan
from harden.pruning.gated import GateSearch
from harden.pruning.greedy import Greedy
from harden.triggers.again import Again
from harden.triggers.families import Additive, Spectral, Tone, Warp, Waves
from harden.triggers.families import Patch as Sticker
from harden.triggers.inversion import ToClass
from harden.triggers.put import Put, as_trigger
from harden.triggers.smallest import SmallestChange
from harden.types import ClassEvidence, Cost, Evidence, Filter, Images, Rate, Silent, Trigger
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


def interrupt_after(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, count: int) -> list[int]:
    """Lets a method be called so many times more, then somebody presses Ctrl-C; counts the calls."""
    real, calls = getattr(owner, name), [0]

    def counted(*called: Any) -> Any:
        if calls[0] == count:
            raise KeyboardInterrupt
        calls[0] += 1
        return real(*called)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_pruning_goes_on_at_its_last_finished_round(
    sample: dict[str, Any], uninterrupted: tuple[Path, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, before = uninterrupted
    assert before.pruned is not None
    rounds = before.pruned.rounds[-1].number
    assert rounds >= 2
    with monkeypatch.context() as patch:
        interrupt_after(patch, Greedy, "_round", rounds - 1)
        with pytest.raises(KeyboardInterrupt) as caught:
            api.clean(**sample, out=tmp_path / "run", resume=True)
    assert f"(recover, {rounds - 1} steps of prune)" in caught.value.__notes__[0]

    calls = interrupt_after(monkeypatch, Greedy, "_round", rounds)
    report = api.clean(**sample, out=tmp_path / "run", resume=True)
    assert calls == [1]
    for name in SAME:
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    (said,) = [finding.message for finding in report.data if finding.rule == "run-resumed"]
    assert said.endswith(f": recover, {rounds - 1} steps of prune")
    assert report.pruned == before.pruned
    assert report.cost == before.cost


PLACES = (
    "load", "read images", "recover", "measure before", "prune", "repair", "measure after", "export",
    "harden.api.write_reports", "harden.api.RunFolder.publish",
)  # fmt: skip
"""Every stage of a run, and what comes after them."""


def killed_at(place: str, settings: dict[str, Any], out: Path, *, resume: bool) -> int:
    """How a run ends whose process gets kill -9 as soon as it comes to this place."""
    child = os.fork()
    if not child:
        try:
            patch, begin = pytest.MonkeyPatch(), Job.stage

            def die(*called: Any) -> Any:
                if place in ("harden.api.write_reports", "harden.api.RunFolder.publish", called[-1]):
                    os.kill(os.getpid(), signal.SIGKILL)
                return begin(*called)

            patch.setattr(place if place.startswith("harden.") else "harden.job.Job.stage", die)
            api.clean(**settings, out=out, resume=resume)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(("resumed", "places"), [(True, PLACES), (False, ("prune", "harden.api.RunFolder.publish"))])
def test_a_kill_at_every_stage_and_then_the_same_command(
    resumed: bool, places: tuple[str, ...], sample: dict[str, Any], uninterrupted: tuple[Path, Report], tmp_path: Path
) -> None:
    for place in places:
        assert killed_at(place, sample, tmp_path / "run", resume=resumed) == -signal.SIGKILL
        assert not (tmp_path / "run").exists(), place
    report = api.clean(**sample, out=tmp_path / "run", resume=resumed)
    assert report.verdict.status == "pass"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    for name in SAME:
        assert (tmp_path / "run" / name).read_bytes() == (uninterrupted[0] / name).read_bytes()
    said = [finding.message for finding in report.data if finding.rule == "run-resumed"]
    assert [message.rpartition(": ")[2] for message in said] == (["recover, prune, repair"] if resumed else [])


SEARCH = SmallestChange(families=(Sticker(), Tone()), look=15, shifts=())
IDLE = GateSearch(again=Again(families=(Sticker(),), steps=60), searches=1, least=0.9)
"""With a stand-in that does nothing: no cut pays until the network is searched again, and then one does."""


def idle() -> Evidence:
    change = Sticker().start((3, 16, 16), torch.Generator().manual_seed(0), torch.device("cpu"))
    for parameter in change.parameters:
        parameter.requires_grad_(False).fill_(-20)
    trigger = as_trigger(Sticker(), ToClass(hand_made.TARGET), change, {"size": 50.0, "usual": 100.0})
    return Evidence("backdoored", (hand_made.TARGET,), (), (trigger,))


LONG: dict[str, tuple[Any, type, str, int]] = {
    "the search, in its second family": (SEARCH, SmallestChange, "_compare", 2),
    "the search, before the other stand-ins": (SEARCH, SmallestChange, "_again", 1),
    "pruning, while it looks again": (IDLE, GateSearch, "_left", 1),
    "pruning, after it has looked again": (IDLE, GateSearch, "_cut", 3),
}
"""A long stage, the method of it that is called for each step, and how often it is called in all."""


@pytest.mark.parametrize("case", LONG)
def test_a_long_stage_goes_on_after_its_last_finished_step(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, owner, name, calls = LONG[case]

    def run(folder: Path | None) -> tuple[str, dict[str, torch.Tensor], Cost]:
        job = Job.start(Plan(), Silent())
        kept = resume.Kept(folder, resume=True)
        kept.begin(lambda: "key", ())
        model = Classifier(hand_made.reachable().module, hand_made.CONTRACT, job.run.cost).eval()
        given = () if owner is SmallestChange else (idle(),)
        value = kept.stage("it", job, lambda: stage(model, hand_made.splits(), *given, job.run))
        tensors: dict[str, torch.Tensor] = {}
        return json.dumps(encode(value, tensors)), tensors, job.run.cost

    expected, tensors, cost = run(None)
    with monkeypatch.context() as patch:
        interrupt_after(patch, owner, name, calls - 1)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    left = list(tmp_path.glob("*/1-it.*.step"))
    assert left
    counted = interrupt_after(monkeypatch, owner, name, calls)
    found, again, spent = run(tmp_path)
    assert counted == [1], "only what had not been finished was done"
    assert found == expected
    assert all(torch.equal(tensor, again[n]) for n, tensor in tensors.items())
    assert spent == cost
    assert [path.name for path in tmp_path.glob("*/*")] == ["1-it.safetensors"]


def test_a_damaged_step_and_those_after_it_are_done_again(tmp_path: Path) -> None:
    def run(stop: int | None) -> tuple[resume.Kept, list[str]]:
        job, made = Job.start(Plan(), Silent()), list[str]()

        def stage() -> str:
            for number in range(4):
                if number == stop:
                    raise KeyboardInterrupt
                job.run.step(f"step {number}", lambda number=number: made.append(f"step {number}"))  # type: ignore[misc]
            return "done"

        kept = resume.Kept(tmp_path, resume=True)
        kept.begin(lambda: "key", ())
        with suppress(KeyboardInterrupt):
            kept.stage("it", job, stage)
        return kept, made

    run(3)
    second = next(tmp_path.glob("*/1-it.2.step"))
    second.write_bytes(second.read_bytes()[:-3])
    kept, made = run(None)
    assert made == ["step 1", "step 2", "step 3"]
    assert kept.taken == ["1 steps of it"]
    assert "1-it.2.step cannot be used" in kept.problems[0]


def test_time_that_a_stage_has_had_is_gone(tmp_path: Path) -> None:
    """The time budget of a run is not given anew for each time that it is cut short."""
    for stop in (True, False):
        job = Job.start(Plan(time_budget=100.0), Silent())
        kept = resume.Kept(tmp_path, resume=True)
        kept.begin(lambda: "key", ())
        deadline = job.run.deadline

        def stage(stop: bool = stop, job: Job = job) -> float:
            job.run.step("slow", lambda: time.sleep(0.2))
            if stop:
                raise KeyboardInterrupt
            return job.run.deadline

        with suppress(KeyboardInterrupt):
            assert kept.stage("it", job, stage) <= deadline - 0.2
    assert job.seconds["it"] >= 0.2


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


@pytest.mark.parametrize("family", [Additive(), Spectral(), Waves(), Sticker(), Warp(), Tone()], ids=lambda f: f.name)
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
