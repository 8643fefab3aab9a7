"""Every form that a checkpoint comes in gives the same network, and every misfit a sentence."""

from __future__ import annotations

import argparse
import json
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from harden.errors import BadData, BadModel, HardenError, Mismatch, UnsafeFile, UsageError
from harden.loading import inspect, load
from harden.loading.scan import scan

CODE = """
from torch import nn

def small(num_classes, width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, num_classes))

def wide(num_classes):
    return small(num_classes, 16)

def grey(num_classes, in_channels):
    net = small(num_classes)
    net[0] = nn.Conv2d(in_channels, 8, 3, padding=1, bias=False)
    return net

def probable(num_classes):
    return nn.Sequential(*small(num_classes), nn.Softmax(1))
"""
HOW: dict[str, Any] = {"mean": [0.5], "std": [0.25], "input_size": [3, 16, 16]}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    file = tmp_path / "nets.py"
    file.write_text(CODE, encoding="utf-8")
    return file


def network(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    space: dict[str, Any] = {}
    exec(CODE, space)  # the fixture's own text
    module: nn.Module = space["small"](classes)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = torch.randn(part.num_features)
    return module.eval()


def beside(net: nn.Module) -> dict[str, Any]:
    """A checkpoint as training scripts write it."""
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    return {
        "epoch": 7,
        "best": np.float64(0.93),
        "args": argparse.Namespace(lr=0.1, path=Path("x")),
        "rng": torch.get_rng_state(),
        "optimizer": optimizer.state_dict(),
        "history": np.arange(4.0),
    }


SAVED: dict[str, Callable[[nn.Module, Path], object]] = {
    "plain": lambda net, path: torch.save(net.state_dict(), path),
    "legacy": lambda net, path: torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False),
    "protocol 4": lambda net, path: torch.save(net.state_dict(), path, pickle_protocol=4),
    "under net": lambda net, path: torch.save({"net": net.state_dict(), "acc": 91.2, "epoch": 3}, path),
    "under state_dict": lambda net, path: torch.save({"state_dict": net.state_dict()}, path),
    "under model_state_dict": lambda net, path: torch.save({"model_state_dict": net.state_dict()}, path),
    "two steps down": lambda net, path: torch.save({"checkpoint": {"model": net.state_dict()}}, path),
    "beside everything": lambda net, path: torch.save({**beside(net), "model": net.state_dict()}, path),
    "data parallel": lambda net, path: torch.save(nn.DataParallel(net).state_dict(), path),
    "compiled": lambda net, path: torch.save({f"_orig_mod.{k}": v for k, v in net.state_dict().items()}, path),
    "wrapped": lambda net, path: torch.save({f"backbone.{k}": v for k, v in net.state_dict().items()}, path),
    "parameters": lambda net, path: torch.save(dict(net.named_parameters()) | dict(net.named_buffers()), path),
    "safetensors": lambda net, path: safetensors.torch.save_file(net.state_dict(), path),
    "whole": lambda net, path: torch.save(net, path),
    "whole, legacy": lambda net, path: torch.save(net, path, _use_new_zipfile_serialization=False),
    "whole, under model": lambda net, path: torch.save({"model": net, "epoch": 1}, path),
    "whole, data parallel": lambda net, path: torch.save(nn.DataParallel(net), path),
    "torchscript": lambda net, path: torch.jit.script(net).save(str(path)),
    "traced": lambda net, path: torch.jit.trace(net, torch.rand(1, 3, 16, 16)).save(str(path)),
    "without counters": lambda net, path: torch.save(
        {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}, path
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", SAVED)
def test_every_saved_form_is_the_same_network(form: str, tmp_path: Path, code: Path) -> None:
    net, path = network(), tmp_path / "model.bin"
    SAVED[form](net, path)
    expected = net.eval()(torch.ones(1, 3, 16, 16))
    suspect = load(path, arch=f"{code}:small", **HOW)
    assert torch.equal(suspect.module(torch.ones(1, 3, 16, 16)), expected)
    assert suspect.contract.num_classes == 4
    assert not suspect.module.training


@pytest.mark.parametrize("form", ["whole", "whole, legacy", "whole, under model", "whole, data parallel"])
def test_a_whole_module_needs_no_architecture(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, path = network(), tmp_path / "model.pt"
    SAVED[form](net, path)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    suspect = load(path, **HOW)
    assert torch.equal(suspect.module(torch.ones(1, 3, 16, 16)), net(torch.ones(1, 3, 16, 16)))


def test_a_number_that_changed_on_its_way_is_noticed_in_a_whole_module(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(network(), path)
    data = bytearray(path.read_bytes())
    weights = network().state_dict()["0.weight"].numpy().tobytes()
    data[data.index(weights) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadModel, match=r"damaged.*CRC"):
        load(path, **HOW)


def test_a_hook_in_a_whole_module_is_refused(tmp_path: Path) -> None:
    net = network()
    net[0]._forward_hooks[0] = nn.functional.relu  # type: ignore[index, union-attr]
    torch.save(net, tmp_path / "model.pt")
    with pytest.raises(UnsafeFile, match="hooks"):
        load(tmp_path / "model.pt", **HOW)


def test_half_precision_is_widened_and_said(tmp_path: Path, code: Path) -> None:
    torch.save(network().half().state_dict(), tmp_path / "m.pt")
    suspect = load(tmp_path / "m.pt", arch=f"{code}:small", **HOW)
    assert {p.dtype for p in suspect.module.parameters()} == {torch.float32}
    assert [f.rule for f in suspect.source.findings] == ["weights-precision"]


def test_the_architecture_of_weights_alone_is_guessed(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.save({"state_dict": resnet18(num_classes=7).state_dict()}, tmp_path / "m.pth")
    suspect = load(tmp_path / "m.pth", classes=list("abcdefg"))
    assert suspect.contract.architecture == "torchvision:resnet18"
    assert suspect.contract.classes == tuple("abcdefg")
    assert {f.rule for f in suspect.source.findings} == {"weights-nested", "architecture-guessed", "contract-default"}


CAUSES = {
    "classes": (
        {},
        "small",
        "num_classes = 9\nmean=[0]\nstd=[1]\ninput_size=[3,16,16]",
        "made for 4 classes and not for 9",
    ),
    "width": ({}, "wide", "", "another width"),
    "missing": ({"drop": "3.weight"}, "small", "", "less"),
    "extra": ({"add": "9.weight"}, "small", "", "more"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_a_mismatch_names_the_difference_and_its_cause(case: str, tmp_path: Path, code: Path) -> None:
    change, function, contract, cause = CAUSES[case]
    weights = network().state_dict()
    if "drop" in change:
        del weights[change["drop"]]
    if "add" in change:
        weights[change["add"]] = torch.zeros(2, 2)
    torch.save(weights, tmp_path / "m.pt")
    if contract:
        (tmp_path / "model.toml").write_text(f"[model]\n{contract}\n", encoding="utf-8")
    with pytest.raises(Mismatch) as caught:
        load(tmp_path / "m.pt", arch=f"{code}:{function}", **({} if contract else HOW))
    assert cause in caught.value.hint
    assert ".weight" in caught.value.message
    assert "expected" in caught.value.message or "not part" in caught.value.message


def test_grey_images_are_found_from_the_first_convolution(tmp_path: Path, code: Path) -> None:
    net = network()
    net[0] = nn.Conv2d(1, 8, 3, padding=1, bias=False)  # type: ignore[index, operator]
    torch.save(net.state_dict(), tmp_path / "m.pt")
    suspect = load(tmp_path / "m.pt", arch=f"{code}:grey", mean=[0], std=[1], input_size=[1, 16, 16])
    assert suspect.module(torch.zeros(2, 1, 16, 16)).shape == (2, 4)


def test_probabilities_are_noticed(tmp_path: Path, code: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "m.pt")
    suspect = load(tmp_path / "m.pt", arch=f"{code}:probable", **HOW)
    assert "output-probabilities" in {f.rule for f in suspect.source.findings}


def _truncated(path: Path, net: nn.Module) -> None:
    torch.save(net.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["plain", "legacy", "safetensors", "whole", "whole, legacy", "torchscript"])
def test_a_file_that_ends_too_soon_is_refused_wherever_it_ends(form: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    SAVED[form](network(), path)
    data = path.read_bytes()
    ends = {*range(40), *range(len(data) - 40, len(data)), *range(0, len(data), len(data) // 100)}
    for end in sorted(ends):
        path.write_bytes(data[:end])
        with pytest.raises(HardenError) as told:
            scan(path)
        assert told.value.exit_code in (3, 4), end
        assert str(path) in told.value.message


def _diverged(path: Path, net: nn.Module) -> None:
    weights = net.state_dict()
    weights["3.weight"].fill_(np.nan)
    torch.save(weights, path)


def _with(changes: dict[str, torch.Tensor]) -> Callable[[Path, nn.Module], object]:
    """A state dict with some of its tensors exchanged."""

    def write(path: Path, net: nn.Module) -> None:
        torch.save({**net.state_dict(), **changes}, path)

    return write


REFUSED: dict[str, tuple[Callable[[Path, nn.Module], object], dict[str, Any], type[HardenError], str]] = {
    "empty": (lambda p, _: p.write_bytes(b""), {}, BadModel, "empty"),
    "junk": (lambda p, _: p.write_bytes(b"\x01\x02" * 500), {}, BadModel, "no known model format"),
    "lfs pointer": (
        lambda p, _: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        {},
        BadModel,
        "git lfs",
    ),
    "web page": (lambda p, _: p.write_bytes(b"<!DOCTYPE html><html>"), {}, BadModel, "web page"),
    "truncated": (
        _truncated,
        {},
        BadModel,
        "trunc",
    ),
    "nan": (_diverged, {}, BadModel, "NaN"),
    "infinite": (_with({"0.weight": torch.full((8, 3, 3, 3), torch.inf)}), {}, BadModel, "NaN or infinite"),
    "negative variance": (_with({"1.running_var": -torch.ones(8)}), {}, BadModel, "an ordinary image with NaN"),
    "out of range": (_with({"0.weight": torch.full((8, 3, 3, 3), 3e38)}), {}, BadModel, "an ordinary image with NaN"),
    "a filter of size zero": (_with({"0.weight": torch.zeros(0, 3, 3, 3)}), {}, Mismatch, "[0, 3, 3, 3]"),
    "a stray tensor of size zero": (_with({"more": torch.zeros(0)}), {}, Mismatch, "more [0] is not part"),
    "no class at all": (_with({"8.weight": torch.zeros(0, 16), "8.bias": torch.zeros(0)}), {}, BadModel, "no logits"),
    "integers": (_with({"0.weight": torch.ones(8, 3, 3, 3, dtype=torch.int8)}), {}, BadModel, "int8 numbers"),
    "complex": (_with({"0.weight": torch.ones(8, 3, 3, 3) + 0j}), {}, BadModel, "complex64 numbers"),
    "one logit for two classes": (
        _with({"8.weight": torch.ones(1, 16), "8.bias": torch.ones(1)}),
        {"classes": ["no", "yes"]},
        BadData,
        "returns two logits",
    ),
    "no weights": (lambda p, _: torch.save({"epoch": 3}, p), {}, BadModel, "without any weights"),
    "a folder": (lambda p, _: p.mkdir(), {}, BadModel, "folder"),
    "nothing there": (lambda _p, _n: None, {}, BadModel, "cannot be read"),
    "another size": (lambda p, n: torch.save(n.state_dict(), p), {"input_size": [3, 1, 1]}, BadModel, "does not take"),
    "another channel": (
        lambda p, n: torch.save(n.state_dict(), p),
        {"input_size": [1, 16, 16]},
        BadModel,
        "does not take",
    ),
    "mean of 255": (lambda p, n: torch.save(n.state_dict(), p), {"mean": [123.7]}, BadModel, "divide it by 255"),
    "two means": (lambda p, n: torch.save(n.state_dict(), p), {"mean": [0.1, 0.2]}, UsageError, "3 channels"),
    "no settings": (lambda p, n: torch.save(n.state_dict(), p), {"mean": None, "std": None}, UsageError, "--std"),
    "unknown arch": (
        lambda p, n: torch.save(n.state_dict(), p),
        {"arch": "torchvision:resnet19"},
        UsageError,
        "resnet1",
    ),
    "arch without kind": (
        lambda p, n: torch.save(n.state_dict(), p),
        {"arch": "resnet18"},
        UsageError,
        "torchvision:resnet18",
    ),
    "timm from a hub": (
        lambda p, n: torch.save(n.state_dict(), p),
        {"arch": "timm:hf-hub:a/b"},
        UsageError,
        "no architecture",
    ),
    "other classes": (lambda p, n: torch.save(n.state_dict(), p), {"classes": ["a", "b"]}, BadData, "4 logits"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_opened_is_refused_with_a_sentence(case: str, tmp_path: Path, code: Path) -> None:
    write, options, kind, sentence = REFUSED[case]
    path = tmp_path / "model with spaces é.pt"
    write(path, network())
    with pytest.raises(kind) as caught:
        load(path, **{"arch": f"{code}:small", **HOW, **options})
    assert sentence in str(caught.value)


CONTRACTS: dict[str, tuple[str, type[HardenError], str]] = {
    "unknown key": ("[model]\nmeans = [0]", BadModel, "did you mean 'mean'"),
    "unknown table": ("[modell]\nmean = [0]", BadModel, "did you mean 'model'"),
    "no toml": ("[model", BadModel, "no TOML"),
    "code": ('[model]\narchitecture = "nets.py:small"', UnsafeFile, "--arch nets.py:small"),
    "negative std": ("[model]\nstd = [-1]", BadModel, "not positive"),
    "class twice": ('[model]\nclasses = ["a", "a"]', BadModel, "twice"),
    "wrong count": ('[model]\nclasses = ["a", "b", "c"]', BadData, "3 classes"),
}


@pytest.mark.parametrize("case", CONTRACTS)
def test_a_contract_that_cannot_be_is_refused(case: str, tmp_path: Path, code: Path) -> None:
    text, kind, sentence = CONTRACTS[case]
    torch.save(network().state_dict(), tmp_path / "m.pt")
    (tmp_path / "model.toml").write_text(text, encoding="utf-8")
    with pytest.raises(kind) as caught:
        load(tmp_path / "m.pt", arch=f"{code}:small", **HOW)
    assert sentence in str(caught.value)


def test_arguments_beat_the_contract_beats_what_is_published(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.save(resnet18(num_classes=2).state_dict(), tmp_path / "m.pt")
    text = '[model]\narchitecture = "torchvision:resnet18"\nclasses = ["no", "yes"]\ninput_size = [3, 32, 32]'
    text += "\nmean = [0.1, 0.1, 0.1]"
    (tmp_path / "model.toml").write_text(text, encoding="utf-8")
    contract = load(tmp_path / "m.pt", mean=[0.9]).contract
    assert contract.mean == (0.9, 0.9, 0.9)
    assert contract.input_size == (3, 32, 32)
    assert contract.std == (0.229, 0.224, 0.225)
    assert contract.classes == ("no", "yes")


def test_a_timm_folder_brings_its_settings(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("mobilenetv3_small_050", num_classes=3).eval()
    safetensors.torch.save_file(net.state_dict(), tmp_path / "model.safetensors")
    settings = {"input_size": [3, 64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    config = {"architecture": "mobilenetv3_small_050", "num_classes": 3, "pretrained_cfg": settings}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    suspect = load(tmp_path)
    assert suspect.contract.input_size == (3, 64, 64)
    assert torch.equal(suspect.module(torch.ones(1, 3, 64, 64)), net(torch.ones(1, 3, 64, 64)))


def transformers_name(name: str) -> str:
    """What transformers' ResNet calls a weight of torchvision's."""
    kinds = {"conv": "convolution", "bn": "normalization"}
    parts = name.split(".")
    if parts[0] == "fc":
        return f"classifier.1.{parts[1]}"
    if len(parts) == 2:
        return f"resnet.embedder.embedder.{kinds[parts[0][:-1]]}.{parts[1]}"
    stage, block, place = int(parts[0][-1]) - 1, parts[1], parts[2]
    if place == "downsample":
        where = f"shortcut.{kinds['bn' if parts[3] == '1' else 'conv']}"
    else:
        where = f"layer.{int(place[-1]) - 1}.{kinds[place[:-1]]}"
    return f"resnet.encoder.stages.{stage}.layers.{block}.{where}.{parts[-1]}"


def transformers_folder(folder: Path, name: str, classes: list[str], **more: Any) -> nn.Module:
    """As save_pretrained leaves it: config.json, preprocessor_config.json and the weights under their own names."""
    from torchvision import models

    torch.manual_seed(0)
    net: nn.Module = models.get_model(name, num_classes=len(classes)).eval()
    deep = name == "resnet50"
    config = {
        "architectures": ["ResNetForImageClassification"], "model_type": "resnet", "num_channels": 3,
        "embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048] if deep else [64, 128, 256, 512],
        "depths": [3, 4, 6, 3] if deep else [2, 2, 2, 2], "layer_type": "bottleneck" if deep else "basic",
        "hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False,
        "id2label": {str(number): label for number, label in enumerate(classes)}, **more,
    }  # fmt: skip
    preparation = {"size": {"shortest_edge": 64}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
    weights = {transformers_name(key): tensor for key, tensor in net.state_dict().items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation), encoding="utf-8")
    return net


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_of_transformers_is_torchvisions(name: str, tmp_path: Path) -> None:
    net = transformers_folder(tmp_path, name, ["cat", "dog", "owl"])
    suspect = load(tmp_path)
    assert torch.equal(suspect.module(torch.ones(1, 3, 64, 64)), net(torch.ones(1, 3, 64, 64)))
    assert suspect.contract.architecture == f"torchvision:{name}"
    assert suspect.contract.classes == ("cat", "dog", "owl")
    assert (suspect.contract.input_size, suspect.contract.mean) == ((3, 64, 64), (0.5, 0.4, 0.3))
    seen = inspect(tmp_path)
    assert seen.architecture == f"torchvision:{name}"
    assert seen.contract is not None
    assert seen.layers[0].name.startswith("classifier.1.") or seen.layers[0].name.startswith("resnet.")


@pytest.mark.parametrize(
    "more", [{"downsample_in_bottleneck": True}, {"hidden_act": "gelu"}, {"depths": [2, 2, 2]}, {"embedding_size": 32}]
)
def test_a_resnet_that_is_not_torchvisions_is_not_taken_for_it(more: dict[str, Any], tmp_path: Path) -> None:
    transformers_folder(tmp_path, "resnet18", ["cat", "dog"], **more)
    with pytest.raises(UsageError, match="transformers' ResNetForImageClassification, which is not built here") as told:
        load(tmp_path)
    assert "ONNX" in told.value.hint
    assert "ONNX" in " ".join(inspect(tmp_path).remarks)


def test_a_network_that_asks_for_absurd_memory_is_refused(tmp_path: Path) -> None:
    """Its file is small: only its settings are large, and the system would kill who obeys them."""
    net = nn.Sequential(nn.Upsample(scale_factor=5000), nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.save(net, tmp_path / "m.pt")
    limit = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(BadModel, match=r"more than 8 GiB of memory for two images of \[3, 16, 16\]"):
        load(tmp_path / "m.pt", **HOW)
    assert resource.getrlimit(resource.RLIMIT_AS) == limit


def test_torchscript_of_newer_operators_is_read(tmp_path: Path) -> None:
    """With some operators torch writes its version under another name, as for ConvNeXt's GELU."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    torch.jit.trace(net, torch.zeros(1, 3, 16, 16)).save(str(tmp_path / "m.pt"))
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:
        assert any(name.endswith(".data/version") for name in archive.namelist())
    assert len(inspect(tmp_path / "m.pt").layers) == 4


def test_torchscript_runs_only_on_trust(tmp_path: Path) -> None:
    net, path = network(), tmp_path / "m.pt"
    torch.jit.script(net).save(str(path))  # type: ignore[no-untyped-call]
    with pytest.raises(UsageError, match="--arch"):
        load(path, **HOW)
    suspect = load(path, trust_code=True, **HOW)
    assert "code-trusted" in {f.rule for f in suspect.source.findings}
    assert torch.allclose(suspect.module(torch.ones(1, 3, 16, 16)), net(torch.ones(1, 3, 16, 16)))


def test_inspect_tells_what_it_is_and_what_is_lacking(tmp_path: Path) -> None:
    torch.save({"net": network().state_dict()}, tmp_path / "m.pt")
    seen = inspect(tmp_path / "m.pt")
    assert seen.source.format == "torch-zip"
    assert [layer.name for layer in seen.layers][:2] == ["0.weight", "1.weight"]
    assert seen.layers[0].shape == (8, 3, 3, 3)
    assert seen.architecture is None
    assert seen.contract is None
    assert "--arch" in seen.uses["clean"]
    assert "--mean" in seen.remarks[0]


def test_the_global_generator_is_left_alone(tmp_path: Path, code: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "m.pt")
    before = torch.get_rng_state()
    load(tmp_path / "m.pt", arch=f"{code}:small", **HOW)
    assert torch.equal(torch.get_rng_state(), before)
