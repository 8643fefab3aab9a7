"""`harden export`: a model as it is, in the kinds of ONNX that were asked for, each with what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from harden import stages
from harden.errors import UsageError
from harden.job import Job
from harden.measure import classes, onnx_answer
from harden.network import Classifier, classifier
from harden.outcome import ShippedFile, Speed
from harden.plan import Plan
from harden.reports import words
from harden.reports.records import REPORT, read_report
from harden.runfolder import RunFolder
from harden.shipping import ONNX, metadata, prepared, reference
from harden.spelling import refuse_unknown
from harden.types import Images, Progress, Pruned, Source, Splits
from harden.verification import load_run
from harden_export.files import OnnxFile
from harden_export.latency import measure_latency
from harden_export.onnx_file import Preprocessing, export_onnx
from harden_export.parity import Parity, measure_parity
from harden_export.quantize import NotWorthIt, to_fp16, to_int8
from harden_export.runtime import OnnxModel

KINDS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Written:
    """One file, how near it is to the network, and its accuracy on images that nothing was chosen by."""

    file: ShippedFile
    parity: Parity
    accuracy: float | None


@dataclass(frozen=True)
class Exports:
    """What came of an export."""

    folder: Path
    written: tuple[Written, ...]
    latency: tuple[Speed, ...]
    refused: tuple[str, ...]
    """Kinds that were not written, each with the reason."""


def export(plan: Plan, kinds: tuple[str, ...], progress: Progress) -> Exports:
    """Writes them into a new folder; parity is measured on clean images, or on random ones where none were given."""
    refuse_unknown(kinds, KINDS, "--kind")
    if "int8" in kinds and plan.clean_dir is None:
        raise UsageError("int8 takes its scales from clean images, and there are none.", hint="Give --clean-dir.")
    job = Job.start(plan, progress)
    with job.stage("load"):
        model, source = _opened(plan)
    with job.stage("read images"):
        splits = stages.read_splits(plan, model.contract, job.run) if plan.clean_dir else _random(model)
    target = plan.need("out", "--out")
    with RunFolder(target) as folder, job.stage("export"):
        found = _write(model, source, splits, kinds, plan, folder.path)
        folder.publish()
    return replace(found, folder=target)


def lines(found: Exports) -> Iterator[str]:
    """For the terminal."""
    for w in found.written:
        accuracy = "" if w.accuracy is None else f", accuracy {100 * w.accuracy:.1f} %"
        yield f"{found.folder / w.file.path}: {words.size(w.file.bytes)}{accuracy}; {w.parity.why}"
    for s in found.latency:
        yield f"  {s.name}, batch {s.batch}: {s.median_ms:.2f} ms, {s.speedup:.2f} times as fast as fp32"
    yield from found.refused


def _opened(plan: Plan) -> tuple[Classifier, Source]:
    path = plan.need("model", "MODEL")
    if path.is_dir() and (path / REPORT).is_file():
        report = read_report(path)
        return Classifier(load_run(path, plan.arch), report.contract).eval(), report.source
    suspect = stages.open_suspect(plan)
    return classifier(suspect), suspect.source


def _random(model: Classifier) -> Splits:
    """Noise, for parity only: there is no accuracy to be had of it."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(32, *model.contract.input_size, generator=generator)
    noise = Images(pixels, torch.full((32,), -1), tuple(f"noise {i}" for i in range(32)))
    return Splits(noise, noise, noise)


def _write(
    model: Classifier, source: Source, splits: Splits, kinds: tuple[str, ...], plan: Plan, folder: Path
) -> Exports:
    contract = model.contract
    embed = Preprocessing(contract.mean, contract.std) if plan.embed_preprocessing else None
    unchanged = Pruned(model.network, (), (), (), (), 0, {})
    about = metadata(contract, source, unchanged)
    size = contract.input_size
    first = export_onnx(
        model.network, folder / ONNX, input_size=size, metadata=about, opset=plan.opset, embed_preprocessing=embed
    )
    files, refused = [first], []
    if "fp16" in kinds:
        files.append(to_fp16(first, folder / "model.fp16.onnx"))
    if "int8" in kinds:
        tune = prepared(splits.tune, contract, embed)
        made = to_int8(first, folder / "model.int8.onnx", calibration=tune, evaluate=_accuracy_on(splits.choose, model))
        if isinstance(made, NotWorthIt):
            refused.append(f"int8 was not written: {made.reason}")
        else:
            files.append(made.file)
    written = tuple(_measured(file, files[0], splits.verify, model, embed) for file in files)
    return Exports(folder, written, _latency(files, plan) if plan.latency else (), tuple(refused))


def _measured(
    file: OnnxFile, first: OnnxFile, images: Images, model: Classifier, embed: Preprocessing | None
) -> Written:
    inputs = prepared(images, model.contract, embed)
    baseline = reference(model.network, embed) if file is first else OnnxModel(first.path)
    parity = measure_parity(baseline, OnnxModel(file.path), inputs, images.names, kind=file.kind)
    known = bool((images.labels >= 0).all())
    shipped = ShippedFile(file.path.name, file.kind, file.sha256, file.bytes)
    return Written(shipped, parity, _accuracy_on(images, model)(file.path) if known else None)


def _accuracy_on(images: Images, model: Classifier) -> Callable[[Path], float]:
    def evaluate(path: Path) -> float:
        said = classes(onnx_answer(OnnxModel(path), model.contract), images)
        return float((said == images.labels).float().mean())

    return evaluate


def _latency(files: list[OnnxFile], plan: Plan) -> tuple[Speed, ...]:
    paths: dict[str, Path] = {file.kind: file.path for file in files}
    found = measure_latency(paths, batches=(1,), threads=(1,), seconds=1.0, seed=plan.seed)
    return tuple(
        Speed(m.name, m.batch, m.threads, m.median_ms, m.p95_ms, m.speedup, m.speedup_low, m.speedup_high)
        for m in found
    )
