"""What travels between the stages. Values only: no stage reads what another wrote to disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from harden.network import Classifier

Severity = Literal["info", "low", "medium", "high", "critical"]
Status = Literal["backdoored", "clean", "inconclusive"]
TriggerSource = Literal["given", "recovered", "probe"]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Rate:
    """A share as two counts, so that nobody has to guess how many images stand behind a percentage."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        """The share in [0, 1]; NaN where nothing was counted."""
        return self.hits / self.total if self.total else math.nan

    def interval(self, z: float = 1.959964) -> tuple[float, float]:
        """Wilson's score interval, 95 % by default; (0, 1) where nothing was counted."""
        if not self.total:
            return 0.0, 1.0
        n, p = self.total, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} %" if self.total else "n/a"


@dataclass(frozen=True)
class Finding:
    """Something noticed about a file or its data, with a stable rule id."""

    rule: str
    severity: Severity
    message: str
    location: str = ""
    reference: str = ""


@dataclass(frozen=True)
class Contract:
    """What goes into the network and what comes out (model.toml)."""

    num_classes: int
    classes: tuple[str, ...]
    """Class names in the order of the logits."""
    input_size: tuple[int, int, int]
    """Channels, height, width."""
    mean: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, ...]
    architecture: str | None = None


@dataclass(frozen=True)
class Source:
    """The file that the model came from, as it was when its bytes were scanned."""

    path: Path
    sha256: str
    format: str
    size: int
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, eq=False)
class Suspect:
    """A loaded model that nobody has vouched for."""

    module: nn.Module
    """As the vendor's file makes it: normalised images in, logits out, in eval mode."""
    contract: Contract
    source: Source


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images, as pixels in [0, 1]: normalisation belongs to the classifier."""

    pixels: Tensor  # (N, C, H, W) float32
    labels: Tensor  # (N,) int64
    names: tuple[str, ...]
    """Path of each image relative to its folder of classes, which is how triggered twins are found."""

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: Tensor) -> Images:
        """The images at these positions, in this order."""
        return Images(self.pixels[index], self.labels[index], tuple(self.names[i] for i in index.tolist()))

    def to(self, device: Any) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device), self.names)


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint, stratified parts of the clean images."""

    tune: Images
    """Moves weights, triggers and scores."""
    choose: Images
    """Chooses thresholds and stopping points; never tunes, never reports."""
    verify: Images
    """Is only ever reported on."""
    findings: tuple[Finding, ...] = ()
    """Images that could not be read, and the like."""

    def to(self, device: Any) -> Splits:
        return Splits(self.tune.to(device), self.choose.to(device), self.verify.to(device), self.findings)


@dataclass(frozen=True, eq=False)
class Trigger:
    """Something that, put on an image, may change what the model says."""

    name: str
    source: TriggerSource
    target: int | None
    """The class that it makes the model say; None where it has none of its own (all-to-all, a probe)."""
    apply: Callable[[Images], Images]
    """Images to triggered images with their true labels; those it cannot be put on are left out."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was made, for the report."""
    moved: Callable[[Tensor], Tensor] | None = None
    """True labels to what it makes of them, where that is no one class (all-to-all) and known."""

    def __call__(self, images: Images) -> Images:
        return self.apply(images)

    @property
    def known(self) -> bool:
        """Whether it is known what it makes of each class."""
        return self.target is not None or self.moved is not None

    def wanted(self, labels: Tensor) -> Tensor:
        """What it should make the model say to images with these labels; -1 where nobody knows."""
        if self.moved is not None:
            return self.moved(labels)
        return labels.new_full(labels.shape, -1 if self.target is None else self.target)


@dataclass(frozen=True)
class ClassEvidence:
    """How strange one class looks to one method: over the threshold is evidence of a backdoor."""

    label: int
    """The class; -1 for a change that makes every class another one (all-to-all)."""
    score: float
    threshold: float
    method: str


@dataclass(frozen=True, eq=False)
class Evidence:
    """What recovery found: the scan's verdict and the triggers that stand in for the attacker's."""

    status: Status
    target_classes: tuple[int, ...]
    evidence: tuple[ClassEvidence, ...]
    triggers: tuple[Trigger, ...]
    why: str = ""
    reserve: tuple[Trigger, ...] = ()
    """What else leads to a class that is accused, but is no evidence: it stands in where the others are not enough."""


class Filter(NamedTuple):
    """One output channel of one convolution."""

    layer: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a filter

    def __str__(self) -> str:
        return f"{self.layer}[{self.index}]"


@dataclass(frozen=True)
class Round:
    """One step of the search for guilty filters."""

    number: int
    """From 1; 0 is the start, with nothing closed yet."""
    closed: tuple[Filter, ...]
    score: float
    accuracy: Rate
    """On the split made for choosing."""
    unlearning_loss: float
    clean_loss: float
    attack_success: Rate | None = None


@dataclass(frozen=True)
class Proposal:
    """What a pruner wants closed. It only proposes: surgery decides what can really go."""

    guilty: tuple[Filter, ...]
    rounds: tuple[Round, ...] = ()
    stopped_because: str = ""
    useless: tuple[Filter, ...] = ()
    """Filters that harm nobody and help nobody, least useful first: they may go to reach an aligned width."""
    spare: tuple[Filter, ...] = ()
    """Filters that clean images do not need, in whole aligned groups: what can be cut of them is cut, what cannot
    stays open and untouched."""


@dataclass(frozen=True)
class Refusal:
    """A filter that stays in the file, masked, and why."""

    filter: Filter
    reason: str


@dataclass(frozen=True)
class LayerWidth:
    """Output channels of one convolution, before and after."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Attempt:
    """One cut that was tried to keep to a budget."""

    share: float
    """Of all filters that are gone."""
    bytes: int
    speedup: float
    speedup_low: float
    reached: bool
    accuracy: Rate | None = None
    """After relearning, on images held back from it; None where it did not come to that."""


@dataclass(frozen=True)
class Budgeted:
    """What the file was to reach, and what came of it."""

    speedup: float | None
    """Times as fast as the original, one image, one thread."""
    max_bytes: int | None
    max_drop: float
    """Share of accuracy that this might cost, on images held back from relearning."""
    reached: bool
    ended_by: str
    """Which budget ended the search, in a sentence."""
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, eq=False)
class Pruned:
    """The smaller network and the record of how it became so."""

    module: nn.Module
    removed: tuple[Filter, ...]
    masked: tuple[Filter, ...]
    """Closed, but still in the file: their weights are zero and stay zero."""
    refusals: tuple[Refusal, ...]
    layers: tuple[LayerWidth, ...]
    filters_total: int
    record: Mapping[str, Any]
    """What pruning.json holds: enough to rebuild the module from the original architecture."""
    rounds: tuple[Round, ...] = ()
    stopped_because: str = ""
    budget: Budgeted | None = None
    """None where nobody asked for a smaller or faster file."""


@dataclass(frozen=True)
class AttackResult:
    """What one trigger does to one model."""

    source: TriggerSource
    name: str
    target: int | None
    asr: Rate
    """Triggered images of other classes that the model gives the target; see measure.py for what has none."""
    recovered_accuracy: Rate
    """Triggered images that are given their true class."""


@dataclass(frozen=True)
class Measurement:
    """One model on images that no decision has read."""

    accuracy: Rate
    per_class: tuple[Rate, ...]
    attack_success: tuple[AttackResult, ...]
    parameters: int
    macs: int


@dataclass
class Cost:
    """Images sent through a network, forward and backward: the fair measure of a method's price."""

    forward_images: int = 0
    backward_images: int = 0


class Task(Protocol):
    """One running line of progress."""

    def advance(self, steps: float = 1, note: str = "") -> None:
        """So many steps further; the note says what is going on."""


class Progress(Protocol):
    """Where progress is shown; silent by default."""

    def task(self, name: str, total: float | None = None) -> AbstractContextManager[Task]:
        """A line that lives as long as the with-block."""


class _SilentTask:
    def advance(self, steps: float = 1, note: str = "") -> None:
        return None


UNSEEN: Task = _SilentTask()


class Silent:
    """Progress that nobody sees."""

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[Task]:
        yield UNSEEN


class Step(Protocol):
    """Does one step of a stage; or gives back what it came to in the same run, if that was cut short later on."""

    def __call__(self, name: str, make: Callable[[], Value], generator: Generator | None = None) -> Value:
        """The value of `make`, which changes nothing but this generator: in what is taken over, nothing else would."""


def done(name: str, make: Callable[[], Value], generator: Generator | None = None) -> Value:  # noqa: ARG001
    """A step of which nothing is kept."""
    return make()


@dataclass(frozen=True, eq=False)
class Run:
    """What every stage is given besides its inputs."""

    seed: int = 0
    device: str = "cpu"
    progress: Progress = field(default_factory=Silent)
    cost: Cost = field(default_factory=Cost)
    deadline: float = math.inf
    """time.monotonic() at which a stage should come to its end with the best it has."""
    step: Step = done
    """For the steps of a long stage, so that `--resume` can go on after the last one."""

    def leaving(self, share: float) -> Run:
        """The same run, which ends early enough to leave this share of the time that is left to what comes after."""
        left = self.deadline - time.monotonic()
        return self if math.isinf(left) or left <= 0 else replace(self, deadline=self.deadline - share * left)


class Recoverer(Protocol):
    """Clean images in, evidence and triggers out."""

    def __call__(self, model: Classifier, splits: Splits, run: Run) -> Evidence: ...


class Pruner(Protocol):
    """Says which filters should go."""

    def __call__(self, model: Classifier, splits: Splits, evidence: Evidence, run: Run) -> Proposal: ...


GUILTY = "guilty"
"""The key under which a repair may tell filters that it found guilty, guiltiest first, each as [layer, index]."""


class Repairer(Protocol):
    """Moves the weights of a model in place and says what it did, for the report."""

    def __call__(
        self, model: Classifier, suspect: Classifier, splits: Splits, evidence: Evidence, run: Run
    ) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Method:
    """A named system: which recoverer, pruner and repairer it is made of."""

    name: str
    summary: str
    recover: Recoverer
    prune: Pruner | None = None
    repair: Repairer | None = None
    paper: str = ""
    baseline: bool = False


@dataclass(frozen=True)
class Check:
    """One line of the policy's verdict."""

    name: str
    observed: float | None
    bound: float | None
    passed: bool | None
    """None: could not be checked, which never counts as passed."""
    why: str
    waived: str = ""
    """Until when and why the policy lets it ship although this did not pass; empty: it does not."""
    todo: str = ""
    """What to do next, where it did not pass."""


@dataclass(frozen=True)
class Verdict:
    """May it ship?"""

    status: Literal["pass", "fail", "inconclusive"]
    checks: Sequence[Check]
