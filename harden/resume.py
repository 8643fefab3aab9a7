"""Finished stages of a run, kept beside its folder until that is whole, so that `--resume` need not repeat them.

    <parent of the run folder>/.harden-resume-<key>/<number>-<stage>.safetensors

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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import safe_open
from safetensors.torch import save

from harden.codec import CannotKeepError, decode, encode
from harden.job import Job, versions
from harden.network import Classifier
from harden.plan import Plan, plan_table
from harden.pruning import rebuild
from harden.pruning.record import weights_sha256
from harden.registry import settings_of
from harden.types import Finding, Method, Pruned, Splits, Suspect, Trigger

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = ".harden-resume-"
DAYS = 7
"""After which what a run left is thrown away by the next one beside it."""
WORTH = 20.0
"""Seconds: a run that has not taken as long is repeated sooner than kept, unless --resume was asked for."""
_AFTERWARDS = ("latency", "opset", "kinds", "provider", "embed_preprocessing", "policy")
_BY_CONTENT = ("model", "clean_dir", "verify_dir", "contract", "trigger", "trigger_dir", "mask", "arch")

Value = TypeVar("Value")


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
        self.pending: list[tuple[Path, bytes]] = []
        """Finished stages that it was not worth writing yet."""
        self.taken: list[str] = []
        """Stages that were read back."""
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
        names = ", ".join(path.stem.partition("-")[2] for path in sorted(self.folder.glob("[0-9]-*.safetensors")))
        return f"What was finished is kept ({names}): the same command with --resume goes on after it."

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
                self.problems.append(f"{path.name} cannot be used ({type(error).__name__}), so that it was done again")
            else:
                job.take_over(name, seconds, cost)
                self.taken.append(name)
                return value
        self.reading = False  # what came after it belongs to that stage's own outcome
        begin = time.monotonic()
        made = make()
        seconds = time.monotonic() - begin
        if self.whole:
            rest, state = apart(made)
            head = {"cost": asdict(job.run.cost), "seconds": seconds}
            try:
                self.pending.append((path, _bytes(rest, state, self.known, head)))
                if self.resume or time.monotonic() - self.begun >= WORTH:
                    self._write()
            except (CannotKeepError, OSError) as error:  # the run itself is none the worse for it
                self.problems.append(f"{name} could not be kept for --resume: {error}")
                self.whole, self.pending = False, []
        return made

    def _write(self) -> None:
        """Every file appears whole or not at all."""
        assert self.folder is not None
        self.folder.mkdir(exist_ok=True)
        for path, content in self.pending:
            fresh = path.with_suffix(f".{os.getpid()}.tmp")
            try:
                with fresh.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                fresh.replace(path)
            finally:
                fresh.unlink(missing_ok=True)
        self.pending = []


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
