"""From a network to the files that would ship, and everything that is measured on those files themselves.

    fp32   model.onnx           always
    fp16   model.fp16.onnx      half the size, for GPUs
    int8   model.int8.onnx      for CPUs; not written where it is slower or worse
    pt2    model.pt2            a torch.export program

Every file is a model of its own: parity, accuracy and attack success are measured on it as it will be run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from harden.counting import count_macs, count_parameters
from harden.measure import classes, measure_answers, measure_file, onnx_answer
from harden.network import Classifier, close, units
from harden.outcome import Exported, Parity, ShippedFile, Speed, Variant, Withheld
from harden.plan import Plan
from harden.provenance import figures
from harden.types import Contract, Images, Measurement, Pruned, Rate, Splits, Trigger, Verdict

if TYPE_CHECKING:
    from harden_export.files import Kind, OnnxFile
    from harden_export.latency import Latency
    from harden_export.onnx_file import Preprocessing

Function = Callable[[NDArray[Any]], NDArray[Any]]
"""Images as the file takes them to logits."""
ONNX = "model.onnx"
INT8_DROP = 0.01
"""Of accuracy, where the policy sets no bound."""


@dataclass(frozen=True, eq=False)
class Parcel:
    """A network that is to become files, and what has to be known for that."""

    network: Pruned
    contract: Contract
    splits: Splits
    triggers: tuple[Trigger, ...]
    metadata: Mapping[str, str]
    """What the files say about where they come from."""
    original: Classifier | None = None
    """What it was before, to be timed against; None: it is the original itself."""


def check(plan: Plan) -> None:
    """What could only fail at the end of a long run is tried at its beginning."""
    from harden_export.runtime import provider

    provider(plan.provider)
    if plan.sign_key is not None:
        from harden_export.signing import check_key

        check_key(plan.sign_key)


def sign(folder: Path, plan: Plan, verdict: Verdict) -> None:
    """Signs the folder if there is a key, and if it may ship: a signature is read as an approval."""
    if plan.sign_key is not None and verdict.status == "pass":
        from harden_export.signing import sign_folder

        sign_folder(folder, plan.sign_key)


def write_files(parcel: Parcel, plan: Plan, to: Path) -> Exported:
    """Writes every kind that was asked for into the folder `to`, runs each on all images, and times them."""
    from harden_export.bundle import annotate, write_infer
    from harden_export.onnx_file import Preprocessing, export_onnx

    contract = parcel.contract
    embed = Preprocessing(contract.mean, contract.std) if plan.embed_preprocessing else None
    first = export_onnx(
        parcel.network.module,
        to / ONNX,
        input_size=contract.input_size,
        metadata=parcel.metadata,
        opset=plan.opset,
        embed_preprocessing=embed,
    )
    bench = _Bench(parcel, plan, embed, first)
    same, measured = bench.measure("fp32", first.path)
    made = {kind: bench.make(kind, to) for kind in plan.kinds if kind != "fp32"}
    files: dict[str, Path] = {"fp32": first.path}
    variants: list[Variant] = []
    for kind, done in made.items():
        if not isinstance(done, Withheld):
            path, note = done
            files[kind] = path
            variants.append(Variant(kind, *bench.measure(kind, path), note))
    onnx = {kind: path for kind, path in files.items() if path.suffix == ".onnx"}
    speeds = _latency(parcel, onnx, embed, plan, to) if plan.latency else ()
    found = {"fp32": measured, **{v.kind: v.measured for v in variants}}
    for kind, path in onnx.items():
        annotate(replace(first, path=path, kind=cast("Kind", kind)), figures(found[kind], plan.provider))
    write_infer(to)
    return Exported(
        opset=first.opset,
        files=tuple(_shipped(kind, path) for kind, path in files.items()),
        parity=same,
        measured=measured,
        latency=speeds,
        variants=tuple(variants),
        withheld=tuple(done for done in made.values() if isinstance(done, Withheld)),
        provider=plan.provider,
    )


def _shipped(kind: str, path: Path) -> ShippedFile:
    from harden_export.files import sha256

    return ShippedFile(path.name, kind, sha256(path), path.stat().st_size)


class _Bench:
    """Makes the other kinds of one file, and measures any of them on the same images."""

    def __init__(self, parcel: Parcel, plan: Plan, embed: Preprocessing | None, first: OnnxFile) -> None:
        self.parcel, self.plan, self.embed, self.first = parcel, plan, embed, first
        self.makers: dict[str, Callable[[Path], tuple[Path, str] | Withheld]] = {
            "fp16": self._fp16,
            "int8": self._int8,
            "pt2": self._pt2,
        }

    def make(self, kind: str, to: Path) -> tuple[Path, str] | Withheld:
        """The file and what to know about it, or why there is none: a converter's failure ends no run."""
        from harden_export.files import ExportError

        try:
            return self.makers[kind](to)
        except ExportError as error:
            return Withheld(kind, error.message)

    def measure(self, kind: str, path: Path) -> tuple[Parity, Measurement]:
        """Against the network, on the images that no decision has read."""
        from harden_export.runtime import OnnxModel

        images, contract = self.parcel.splits.verify, self.parcel.contract
        labelled = images.take((images.labels >= 0).nonzero().flatten())
        if kind == "pt2":
            run = _program(path)
            network = self.parcel.network.module
            size = count_parameters(network), count_macs(network, contract.input_size)
            measured = measure_answers(
                lambda x: torch.from_numpy(run(_normalised(x, contract))),
                labelled,
                self.parcel.triggers,
                contract,
                *size,
            )
            return self._parity(run, kind, None), measured
        model = OnnxModel(path, self.plan.provider)
        return self._parity(model, kind, self.embed), measure_file(model, contract, labelled, self.parcel.triggers)

    def _parity(self, run: Function, kind: str, embed: Preprocessing | None) -> Parity:
        from harden_export.parity import TOLERANCES, measure_parity

        images = self.parcel.splits.verify
        bound = TOLERANCES[kind]
        inputs = prepared(images, self.parcel.contract, embed)
        network = reference(self.parcel.network.module, embed)
        found = measure_parity(network, run, inputs, images.names, tolerance=bound)
        return Parity(
            found.max_abs,
            found.max_relative,
            Rate(found.agree, found.images),
            found.mean_abs,
            found.mean_relative,
            found.worst_image,
            found.batch_sizes,
            bound.relative,
            bound.agreement,
            bound.reason,
        )

    def _fp16(self, to: Path) -> tuple[Path, str]:
        from harden_export.quantize import to_fp16

        note = "for GPUs; on a CPU half precision gains nothing but size" if self.plan.provider == "cpu" else ""
        return to_fp16(self.first, to / "model.fp16.onnx").path, note

    def _int8(self, to: Path) -> tuple[Path, str] | Withheld:
        from harden_export.quantize import NotWorthIt, to_int8

        bound = self.plan.policy.max_int8_drop
        done = to_int8(
            self.first,
            to / "model.int8.onnx",
            calibration=prepared(self.parcel.splits.tune, self.parcel.contract, self.embed),
            evaluate=self._accuracy,
            max_drop=INT8_DROP if bound is None else bound,
            must_be_faster=self.plan.latency,
            provider=self.plan.provider,
        )
        if isinstance(done, NotWorthIt):
            return Withheld("int8", f"not worth it here: {done.reason}")
        kept = f"{len(done.kept_float)} sensitive layers stay in float" if done.kept_float else ""
        return done.file.path, kept

    def _pt2(self, to: Path) -> tuple[Path, str]:
        from harden_export.onnx_file import export_program

        size = self.parcel.contract.input_size
        path = export_program(self.parcel.network.module, to / "model.pt2", input_size=size)
        return path, "a program for torch.export.load, which runs code: it is for whoever trusts this run"

    def _accuracy(self, path: Path) -> float:
        """On the images that choose: how much stays in float is a choice."""
        from harden_export.runtime import OnnxModel

        images = self.parcel.splits.choose
        said = classes(onnx_answer(OnnxModel(path, self.plan.provider), self.parcel.contract), images)
        return float((said == images.labels.cpu()).float().mean())


def prepared(images: Images, contract: Contract, embed: Preprocessing | None) -> NDArray[Any]:
    """Images as the file takes them: normalised, or bytes as an image file decodes to."""
    if embed is None:
        return _normalised(images.pixels, contract)
    return np.ascontiguousarray((images.pixels.cpu() * 255).round().byte().permute(0, 2, 3, 1).numpy())


def _normalised(pixels: torch.Tensor, contract: Contract) -> NDArray[Any]:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (contract.mean, contract.std))
    return np.ascontiguousarray(((pixels.cpu() - mean) / std).numpy())


def reference(module: nn.Module, embed: Preprocessing | None) -> Function:
    """The network as a function of the file's own inputs."""
    from copy import deepcopy

    from harden_export.onnx_file import with_preprocessing

    return _arrays(deepcopy(module).cpu().eval() if embed is None else with_preprocessing(module, embed))


def _program(path: Path) -> Function:
    """The .pt2 file that was just written, as a function of arrays: nobody else's is ever loaded."""
    return _arrays(torch.export.load(path).module())


def _arrays(network: nn.Module) -> Function:
    @torch.no_grad()
    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        logits: NDArray[Any] = network(torch.from_numpy(inputs)).numpy()
        return logits

    return run


def _latency(
    parcel: Parcel, onnx: Mapping[str, Path], embed: Preprocessing | None, plan: Plan, to: Path
) -> tuple[Speed, ...]:
    """Every file in turns with the original and with what masking alone would have given, exported in the same way."""
    from harden_export.latency import measure_latency
    from harden_export.onnx_file import export_onnx

    files: dict[tuple[str, str], Path] = {}
    passing: list[Path] = []
    if parcel.original is not None:
        modules = {"original": parcel.original.network}
        closed = (*parcel.network.removed, *parcel.network.masked)
        if closed:
            masked = parcel.original.copy()
            close(units(masked), closed)
            modules["masked"] = masked.network
        for name, module in modules.items():
            path = to / f"{name}.onnx"
            passing.append(path)
            export_onnx(
                module,
                path,
                input_size=parcel.contract.input_size,
                metadata={},
                opset=plan.opset,
                embed_preprocessing=embed,
            )
            files[name, "fp32"] = path
    files |= {("hardened" if parcel.original else "original", kind): path for kind, path in onnx.items()}
    try:
        found = measure_latency(
            {" ".join(key): path for key, path in files.items()},
            batches=(1, 32),
            threads=(1, 0),
            seconds=1.0,
            rounds=(5, 300),
            provider=plan.provider,
            seed=plan.seed,
        )
    finally:
        for path in passing:
            path.unlink(missing_ok=True)
    return tuple(_speed(m) for m in found)


def _speed(m: Latency) -> Speed:
    name, kind = m.name.split(" ")
    return Speed(
        name, m.batch, m.threads, m.median_ms, m.p95_ms, m.speedup, m.speedup_low, m.speedup_high, kind, m.p5_ms
    )
