"""Opens what people really send: networks of torchvision and timm in every form in which they are saved.

    python -m benchmarks.ordinary --keep FILE       all of them; many minutes on one core
    python -m benchmarks.ordinary resnet18 ...      these networks only

Each network gets random weights, is saved in a form, and opened by `harden.loading.load` as a user would: weights
alone with --arch, everything else by itself. A file counts as the same if every tensor that comes out is equal to the
one that went in; an ONNX file, whose tensors may be folded, if its answers agree to 1e-3 of the largest logit.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from benchmarks.architectures import NETWORKS, build, smallest
from harden.errors import HardenError
from harden.loading import load
from harden.loading.guess import guess
from harden.types import Suspect

LARGEST = 60_000_000
"""Parameters of the largest network that is saved."""
PROGRAM = 12_000_000
"""The same, for the forms that take a compiler's time."""


@dataclass(frozen=True, eq=False)
class Network:
    """One network to be saved."""

    module: nn.Module
    spec: str
    size: int
    """Height and width of its images."""

    @property
    def example(self) -> torch.Tensor:
        return torch.zeros(1, 3, self.size, self.size)


Maker = Callable[[Network, Path], None]


def _nested(net: Network, path: Path) -> None:
    """As training scripts leave it: beside the optimizer, the epoch and the arguments."""
    optimizer = torch.optim.SGD(net.module.parameters(), lr=0.1, momentum=0.9)
    settings = argparse.Namespace(arch=net.spec, lr=0.1, data=Path("data"))
    states = {"state_dict": net.module.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({"epoch": 7, **states, "args": settings}, path)


def _parallel(net: Network, path: Path) -> None:
    torch.save({f"module.{name}": tensor for name, tensor in net.module.state_dict().items()}, path)


def _folder(net: Network, path: Path) -> None:
    """As timm pushes it to a hub."""
    path.mkdir()
    inputs = {"input_size": [3, net.size, net.size], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    config = {"architecture": net.spec.removeprefix("timm:"), "num_classes": 10, "pretrained_cfg": inputs}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    safetensors.torch.save_file(_own(net.module), path / "model.safetensors")


def _own(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict with memory of its own for each tensor, as safetensors wants it."""
    return {name: tensor.clone().contiguous() for name, tensor in module.state_dict().items()}


def _script(net: Network, path: Path) -> None:
    torch.jit.save(torch.jit.trace(net.module, net.example, check_trace=False), path)


def _export(net: Network, path: Path) -> None:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(net.module, (net.example,)), buffer)
    path.write_bytes(buffer.getvalue())


def _onnx(net: Network, path: Path) -> None:
    made = torch.onnx.export(net.module, (net.example,), dynamo=True, verbose=False)
    assert made is not None
    path.write_bytes(made.model_proto.SerializeToString())


def _onnx_old(net: Network, path: Path) -> None:
    torch.onnx.export(
        net.module, (net.example,), path, dynamo=False, input_names=["input"], output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
    )  # fmt: skip


FORMS: dict[str, Maker] = {
    "state dict": lambda net, path: torch.save(net.module.state_dict(), path),
    "state dict, old format": lambda net, path: torch.save(
        net.module.state_dict(), path, _use_new_zipfile_serialization=False
    ),
    "nested in a checkpoint": _nested,
    "from DataParallel (module.)": _parallel,
    "safetensors": lambda net, path: safetensors.torch.save_file(_own(net.module), path),
    "whole module": lambda net, path: torch.save(net.module, path),
    "whole module, old format": lambda net, path: torch.save(net.module, path, _use_new_zipfile_serialization=False),
    "timm folder": _folder,
    "TorchScript": _script,
    "torch.export .pt2": _export,
    "ONNX": _onnx,
    "ONNX, older exporter": _onnx_old,
}
COMPILED = ("TorchScript", "torch.export .pt2", "ONNX", "ONNX, older exporter")
BY_ITSELF = ("whole module", "whole module, old format", "timm folder", "ONNX", "ONNX, older exporter")
"""Forms that need no --arch."""


Row = dict[str, str]
"""One file: network, form, outcome (same, other, refused, unsaved), why."""


def rows(networks: Sequence[str], forms: Sequence[str] = tuple(FORMS)) -> Iterator[list[Row]]:
    """Saves and opens every network in every form that it has; the files of one network at a time."""
    for number, spec in enumerate(networks):
        torch.manual_seed(number)
        module = build(spec).eval()
        count = sum(p.numel() for p in module.parameters())
        named = spec if ":" in spec else f"torchvision:{spec}"
        found = guess({name: tuple(tensor.shape) for name, tensor in module.state_dict().items()})
        made: list[Row] = [{"network": spec, "form": "guess", "outcome": str(found is not None), "why": found or ""}]
        net = Network(module, named, smallest(module))
        for form in forms if count <= LARGEST else ():
            if (form in COMPILED and count > PROGRAM) or (form == "timm folder" and not named.startswith("timm:")):
                continue
            outcome, why = attempt(net, form)
            made.append({"network": spec, "form": form, "outcome": outcome, "why": why})
        yield made


def attempt(net: Network, form: str) -> tuple[str, str]:
    """One file: saved, opened, compared."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model"
        try:
            FORMS[form](net, path)
        except Exception as error:  # torch's exporters fail in their own ways, and that is no file to be opened
            return "unsaved", f"{type(error).__name__}: {str(error).strip().splitlines()[0][:100]}"
        arch = None if form in BY_ITSELF else net.spec
        try:
            suspect = load(path, arch=arch, mean=[0.5], std=[0.25], input_size=[3, net.size, net.size])
        except HardenError as error:
            return "refused", error.message
        different = answers(net.module, suspect) if form.startswith("ONNX") else tensors(net.module, suspect)
        return ("other", different) if different else ("same", "")


def tensors(module: nn.Module, suspect: Suspect) -> str:
    """How the weights that came out differ from those that went in; empty if they do not."""
    came, meant = suspect.module.state_dict(), module.state_dict()
    if came.keys() != meant.keys():
        return f"other names: {sorted(came.keys() ^ meant.keys())[:3]}"
    return next((f"{name} differs" for name in meant if not torch.equal(came[name], meant[name])), "")


@torch.no_grad()
def answers(module: nn.Module, suspect: Suspect) -> str:
    """How the logits differ, on random images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, *suspect.contract.input_size, generator=generator)
    meant, came = module(images), suspect.module(images)
    error = float((came - meant).abs().max() / meant.abs().max().clamp(min=1e-6))
    return "" if error <= 1e-3 else f"answers differ by {error:.1e}"


def table(found: Sequence[Row]) -> str:
    """What docs/results.md shows."""
    counted = Counter((row["form"], row["outcome"]) for row in found)
    lines = ["| saved as | files | refused | the same network |", "|---|---|---|---|"]
    total = Counter[str]()
    for form in FORMS:
        same, other, refused = (counted[form, outcome] for outcome in ("same", "other", "refused"))
        total.update(files=same + other + refused, refused=refused, same=same)
        if same + other + refused:
            lines.append(f"| {form} | {same + other + refused} | {refused} | {same} |")
    networks = len({row["network"] for row in found if row["outcome"] in ("same", "other", "refused")})
    lines.append(f"| all, of {networks} networks | {total['files']} | {total['refused']} | {total['same']} |")
    guessed, guesses = counted["guess", "True"], counted["guess", "True"] + counted["guess", "False"]
    lines += ["", f"From the names and shapes of the weights alone, {guessed} of {guesses} networks are recognised."]
    for title, outcomes in (("Not opened as they were:", ("refused", "other")), ("torch cannot save:", ("unsaved",))):
        wrong = [row for row in found if row["outcome"] in outcomes]
        if wrong:
            lines += ["", title, "", *(f"- {row['network']}, {row['form']}: {row['why']}" for row in wrong)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--keep", type=Path, help="results so far, which a second run goes on from (JSON lines)")
    asked = parser.parse_args()
    found: list[Row] = []
    if asked.keep and asked.keep.exists():
        found = [json.loads(line) for line in asked.keep.read_text(encoding="utf-8").splitlines()]
    done = {row["network"] for row in found}
    for made in rows([spec for spec in asked.networks if spec not in done]):
        found += made
        print(made[0]["network"], Counter(row["outcome"] for row in made[1:]), file=sys.stderr, flush=True)
        if asked.keep:
            with asked.keep.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in made)
    print(table(found))
    sys.exit(any(row["outcome"] in ("refused", "other") for row in found))


if __name__ == "__main__":
    main()
