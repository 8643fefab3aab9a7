"""Finished stages of a run, kept beside its folder until that is whole, so that `--resume` need not repeat them.

    <parent of the run folder>/.harden-resume-<key>/<number>-<stage>.safetensors
                                                    <number>-<stage>.<step>.step     until that stage is finished

The key is a hash of everything that the stages depend on: the file's bytes, the images, the triggers that were given,
the settings, the device, harden's own code and the versions of torch and numpy. So what is read back is what the
same run would compute again, and anything that changed begins anew. Each file appears in one step; it holds numbers
and JSON, and nothing in it is run. They go when the run is whole, when the same run is begun anew, or after a week.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import save

from harden.codec import CannotKeepError, decode, encode
from harden.job import Job, versions
from harden.network import Classifier
from harden.plan import Plan, plan_table
from harden.pruning import rebuild
from harden.pruning.record import weights_sha256
from harden.registry import settings_of
from harden.types import Finding, Method, Pruned, Splits, Suspect, Trigger, Value, done

if TYPE_CHECKING:
    from torch import Generator, Tensor

PREFIX = ".harden-resume-"
DAYS = 7
"""After which what a run left is thrown away by the next one beside it."""
WORTH = 20.0
"""Seconds: a run that has not taken as long is repeated sooner than kept, unless --resume was asked for."""
STEP = ".step"
_AFTERWARDS = ("latency", "opset", "kinds", "provider", "embed_preprocessing", "policy")
_BY_CONTENT = ("model", "clean_dir", "verify_dir", "contract", "trigger", "trigger_dir", "mask", "arch")


class Kept:
    """The finished stages of one run. Without a folder nothing is kept, and every stage is done."""

    def __init__(self, parent: Path | None = None, *, resume: bool = False) -> None:
        self.parent = parent
        self.resume = self.reading = resume
        self.folder: Path | None = None
        self.known: Sequence[Any] = ()
        self.number = 0
        self.whole = True
        """Whether every stage so far was kept: a later one is worth nothing without those before."""
        self.pending: dict[Path, bytes] = {}
        """Finished stages and steps that it was not worth writing yet."""
        self.taken: list[str] = []
        """Stages that were read back, and the steps of the one that was cut short."""
        self.problems: list[str] = []
        self.begun = time.monotonic()

    def begin(self, key: Callable[[], str], known: Sequence[Any]) -> None:
        """Finds what the same run has left, or throws it away if it is to begin anew."""
        if self.parent is None:
            return
        sweep(self.parent)
        self.folder, self.known = self.parent / f"{PREFIX}{key()[:16]}", known
        if not self.resume:
            shutil.rmtree(self.folder, ignore_errors=True)

    def stage(self, name: str, job: Job, make: Callable[[], Value]) -> Value:
        """The value of a stage: read back, or made and kept."""
        value: Value = self._stage(name, job, make, lambda value: (value, {}), lambda value, _: value)
        return value

    def pruned(self, name: str, job: Job, suspect: Classifier, make: Callable[[], Value]) -> Value:
        """The same, of a value with a smaller network in it, which is built again from the suspect's."""

        def apart(value: Any) -> tuple[Any, dict[str, Tensor]]:
            first, *rest = value if isinstance(value, tuple) else (value,)
            frozen = [n for n, parameter in first.module.named_parameters() if not parameter.requires_grad]
            return (replace(first, module=None), frozen, *rest), first.module.state_dict()

        def together(value: Any, state: Mapping[str, Tensor]) -> Any:
            first, frozen, *rest = value
            record = dict(first.record, weights_sha256=weights_sha256(state))
            network = rebuild.rebuild(deepcopy(suspect.network), record, state).to(job.run.device)
            for n, parameter in network.named_parameters():
                parameter.requires_grad_(n not in frozen)
            whole: Pruned = replace(first, module=network)
            return (whole, *rest) if rest else whole

        value: Value = self._stage(name, job, make, apart, together)
        return value

    def forget(self) -> None:
        """The run is whole: nothing of this is needed any more."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the report says of it."""
        found = [Finding("run-not-kept", "info", problem) for problem in self.problems]
        if self.taken:
            said = f"taken over from a run that was cut short: {', '.join(self.taken)}"
            found.append(Finding("run-resumed", "info", said))
        return tuple(found)

    @property
    def note(self) -> str:
        """What a person is told whose run was cut short; empty if nothing is kept."""
        if self.folder is None or not self.folder.is_dir():
            return ""
        names = [path.stem.partition("-")[2] for path in sorted(self.folder.glob("[0-9]-*.safetensors"))]
        steps = Counter(path.name.partition("-")[2].partition(".")[0] for path in self.folder.glob("[0-9]-*.step"))
        names += [f"{count} steps of {stage}" for stage, count in steps.items()]
        return f"What was finished is kept ({', '.join(names)}): the same command with --resume goes on after it."

    def _stage(
        self,
        name: str,
        job: Job,
        make: Callable[[], Any],
        apart: Callable[[Any], tuple[Any, dict[str, Tensor]]],
        together: Callable[[Any, Mapping[str, Tensor]], Any],
    ) -> Any:
        self.number += 1
        if self.folder is None:
            return make()
        path = self.folder / f"{self.number}-{name.replace(' ', '-')}.safetensors"
        if self.reading and path.is_file():
            try:
                found, state, cost, seconds = _read(path, self.known, job.run.device)
                value = together(found, state)
            except Exception as error:  # damaged in whatever way: then the stage is simply done again
                self.damaged(path, error)
            else:
                job.take_over(name, seconds, cost)
                self.taken.append(name)
                return value
        steps = Steps(self, name, path, job)
        self.reading = False  # what came after it belongs to that stage's own outcome
        job.run = replace(job.run, step=steps)
        made = make()
        job.run = replace(job.run, step=done)
        self.pending = {path: content for path, content in self.pending.items() if path.suffix != STEP}
        if self.whole:
            rest, state = apart(made)
            self.whole = self.keep(name, path, rest, state, job, steps.seconds)
            if path.is_file():
                steps.forget()
        return made

    def keep(self, name: str, path: Path, value: Any, state: Mapping[str, Tensor], job: Job, seconds: float) -> bool:
        """Puts a value by, and writes what was put by as soon as that is worth it; whether this went well."""
        try:
            self.pending[path] = _bytes(value, state, self.known, {"cost": asdict(job.run.cost), "seconds": seconds})
            if self.resume or time.monotonic() - self.begun >= WORTH:
                self._write()
        except (CannotKeepError, OSError) as error:  # the run itself is none the worse for it
            self.problems.append(f"{name} could not be kept for --resume: {error}")
            self.pending.pop(path, None)
            return False
        return True

    def damaged(self, path: Path, error: Exception) -> None:
        """Says that something is done again which had been kept."""
        self.problems.append(f"{path.name} cannot be used ({type(error).__name__}), so that it was done again")

    def _write(self) -> None:
        """Every file appears whole or not at all."""
        assert self.folder is not None
        self.folder.mkdir(exist_ok=True)
        for path, content in self.pending.items():
            fresh = path.with_suffix(f".{os.getpid()}.tmp")
            try:
                with fresh.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                fresh.replace(path)
            finally:
                fresh.unlink(missing_ok=True)
        self.pending = {}


class Steps:
    """The steps of one stage: those that a run has finished which was cut short come back in their order."""

    def __init__(self, kept: Kept, stage: str, path: Path, job: Job) -> None:
        self.kept, self.stage, self.path, self.job = kept, stage, path, job
        self.number = 0
        self.whole = kept.whole
        """Whether every step so far was kept."""
        self.left: list[tuple[tuple[str, Any, Tensor | None], dict[str, int]]] = []
        """Steps to be taken over: name, value and state of the generator; what the run had cost by then."""
        self.begun = time.monotonic()
        if kept.reading:
            self._read()

    def __call__(self, name: str, make: Callable[[], Value], generator: Generator | None = None) -> Value:
        self.number += 1
        if self.left and self.left[0][0][0] == name:
            (_, value, state), cost = self.left.pop(0)
            self.job.take_over(self.stage, 0, cost)
            if generator is not None and state is not None:
                generator.set_state(state.cpu())
            return value  # type: ignore[no-any-return]
        self.left = []
        value = make()
        if self.whole:
            step = (name, value, None if generator is None else generator.get_state())
            self.whole = self.kept.keep(f"{self.stage} ({name})", self._file(), step, {}, self.job, self.seconds)
        return value

    @property
    def seconds(self) -> float:
        """What the stage has taken, that of the run before included."""
        return time.monotonic() - self.begun

    def forget(self) -> None:
        """The stage is finished and kept."""
        for path in self.path.parent.glob(f"{self.path.stem}.*{STEP}"):
            path.unlink(missing_ok=True)

    def _file(self) -> Path:
        return self.path.with_suffix(f".{self.number}{STEP}")

    def _read(self) -> None:
        """All steps that were kept without a gap. Their time counts at once, for it is gone from the time budget."""
        seconds, cost = 0.0, asdict(self.job.run.cost)
        self.number = 1
        while self._file().is_file():
            try:
                step, _, cost_by_then, seconds = _read(self._file(), self.kept.known, self.job.run.device)
            except Exception as error:
                self.kept.damaged(self._file(), error)
                break
            self.left.append((step, cost_by_then))
            self.number += 1
        self.number = 0
        if self.left:
            self.job.take_over(self.stage, seconds, cost)
            self.begun -= seconds
            self.kept.taken.append(f"{len(self.left)} steps of {self.stage}")


def key(plan: Plan, method: Method, suspect: Suspect, splits: Splits, given: Sequence[Trigger], device: str) -> str:
    """A hash of everything that the stages depend on, but of no place and nothing that is done afterwards."""
    settings = plan_table(plan, settings=settings_of(method))
    for name in (*_AFTERWARDS, *_BY_CONTENT):
        settings.pop(name, None)
    contract = {**asdict(suspect.contract), "architecture": None}
    digest = hashlib.sha256()
    about = [settings, contract, suspect.source.sha256, device, _code(), {**versions(), "harden": ""}]
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    digest.update(weights_sha256(suspect.module.state_dict()).encode())
    if plan.arch is not None and (file := Path(plan.arch.rpartition(":")[0])).is_file():
        digest.update(file.read_bytes())
    for images in (splits.tune, splits.choose, splits.verify, *(trigger(splits.choose) for trigger in given)):
        digest.update(json.dumps([images.names, images.labels.tolist()]).encode())
        digest.update(images.pixels.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def sweep(parent: Path) -> None:
    """Throws away what was left here long ago."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            newest = max((path.stat().st_mtime for path in (folder, *folder.iterdir())), default=0.0)
            if time.time() - newest > DAYS * 86400:
                shutil.rmtree(folder, ignore_errors=True)


@cache
def _code() -> str:
    """Of harden itself: another version need not compute the same."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _bytes(value: Any, state: Mapping[str, Tensor], known: Sequence[Any], head: Mapping[str, Any]) -> bytes:
    """One safetensors file: the value's tensors, a network's weights, and all the rest as JSON in its header."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps({**head, "value": encode(value, tensors, known)})
    every = {f"value/{name}": tensor for name, tensor in tensors.items()}
    every |= {f"state/{name}": tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    return save(every, {"harden": text})


def _read(path: Path, known: Sequence[Any], device: str) -> tuple[Any, dict[str, Tensor], dict[str, int], float]:
    with safe_open(path, "pt") as file:
        head = json.loads(file.metadata()["harden"])
        tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    own, state = ({n.removeprefix(p): t for n, t in tensors.items() if n.startswith(p)} for p in ("value/", "state/"))
    return decode(head["value"], own, known), state, head["cost"], float(head["seconds"])
