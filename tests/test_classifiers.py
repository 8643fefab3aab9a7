"""Classifiers of every usual build go through the whole job, or end in a sentence that says what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from harden import api
from harden.errors import BadData
from harden.types import Images
from tests import planted as hand_made

CODE = """
import torch
from torch import nn
from tests.planted import PlantedNet

class Softmax(PlantedNet):
    def forward(self, x):
        return super().forward(x).softmax(1)

class SoftmaxLayer(PlantedNet):
    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.end = nn.Softmax(dim=1)

    def forward(self, x):
        return self.end(super().forward(x))

class Rounded(PlantedNet):
    def forward(self, x):
        return super().forward(x).softmax(1).clamp(0, 1)

class LogSoftmax(PlantedNet):
    def forward(self, x):
        return super().forward(x).log_softmax(1)

class Dropout(PlantedNet):
    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.pool = nn.Sequential(self.pool, nn.Dropout(0.5))

class NoNorm(PlantedNet):
    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 8, 1)
        self.bn1, self.bn2 = nn.Identity(), nn.Identity()

class Shared(PlantedNet):
    '''One matrix under two names, and read twice.'''
    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.second = self.fc

    def forward(self, x):
        x = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        x = self.pool(x).flatten(1)
        return (self.fc(x) + self.second(x)) / 2

class One(PlantedNet):
    '''One number: no or yes.'''
    def __init__(self):
        super().__init__(1)

class Two(One):
    '''The same as two logits, as the message about One says.'''
    def forward(self, x):
        x = super().forward(x)
        return torch.cat([-x, x], 1) / 2

class Flat(nn.Module):
    '''No convolution at all.'''
    def __init__(self, num_classes=3):
        super().__init__()
        self.fc = nn.Linear(3 * 16 * 16, num_classes)

    def forward(self, x):
        return self.fc(x.flatten(1))

class Bright(nn.Module):
    '''Tells bright squares from dark ones, in grey or in four channels.'''
    def __init__(self, num_classes=2, in_channels=1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).amax((2, 3)))

def transformer(num_classes=3):
    from timm.models.vision_transformer import VisionTransformer
    return VisionTransformer(img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=num_classes)
"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = hand_made.as_received(tmp_path_factory.mktemp("sample"))
    (folder / "nets.py").write_text(CODE, encoding="utf-8")
    return folder


def built(name: str) -> nn.Module:
    space: dict[str, Any] = {"__name__": "nets"}
    exec(CODE, space)  # the text above
    module: nn.Module = space[name]()
    return module.eval()


def clean(sample: Path, name: str, weights: dict[str, Tensor], out: Path, **more: Any) -> Any:
    torch.save(weights, out.parent / "model.pt")
    settings: dict[str, Any] = {
        "arch": f"{sample / 'nets.py'}:{name}", "clean_dir": sample / "data", "contract": sample / "model.toml",
        "trigger": f"{sample / 'trigger.py'}:stamp", "target": "red", "method": "grad-prune", "latency": False, **more,
    }  # fmt: skip
    return api.clean(out.parent / "model.pt", **settings, out=out)


def weights_of(name: str) -> dict[str, Tensor]:
    """The planted network's weights, as this build of it has them."""
    net = hand_made.planted().module
    if name == "NoNorm":
        net.conv1, net.conv2 = fuse_conv_bn_eval(net.conv1, net.bn1), fuse_conv_bn_eval(net.conv2, net.bn2)
        net.bn1, net.bn2 = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    if name == "Shared":
        net.add_module("second", net.fc)
    state: dict[str, Tensor] = net.state_dict()
    return {
        key: tensor.half() if name == "half" and tensor.is_floating_point() else tensor for key, tensor in state.items()
    }


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax", "Dropout", "NoNorm", "Shared", "half"])
def test_the_backdoor_is_cut_out_of_every_build(name: str, sample: Path, tmp_path: Path) -> None:
    arch = "transformer" if name == "half" else name
    more = {"arch": f"{sample / 'net.py'}:net"} if name == "half" else {}
    report = clean(sample, arch, weights_of(name), tmp_path / "run", **more)
    assert report.verdict.status == "pass"
    assert report.before.attack_success[0].asr.value == 1
    assert report.final.attack_success[0].asr.value == 0
    assert report.final.accuracy.value == 1
    assert hand_made.GUILTY in report.pruned.removed


@pytest.mark.parametrize("form", ["layer", "ONNX"])
def test_a_network_with_a_softmax_is_cleaned_like_its_twin_and_goes_on_giving_probabilities(
    form: str, sample: Path, tmp_path: Path
) -> None:
    import onnxruntime as ort

    twin = clean(sample, "transformer", weights_of("half"), tmp_path / "twin", arch=f"{sample / 'net.py'}:net")
    if form == "layer":
        report = clean(sample, "SoftmaxLayer", weights_of("SoftmaxLayer"), tmp_path / "run")
    else:
        net = built("SoftmaxLayer")
        net.load_state_dict(weights_of("SoftmaxLayer"))
        made = torch.onnx.export(
            net, (torch.zeros(2, 3, 16, 16),), dynamo=True, verbose=False, dynamic_shapes=({0: "batch"},)
        )
        assert made is not None
        (tmp_path / "model.onnx").write_bytes(made.model_proto.SerializeToString())
        settings: dict[str, Any] = {"trigger": f"{sample / 'trigger.py'}:stamp", "target": "red"}
        settings |= {"clean_dir": sample / "data", "contract": sample / "model.toml", "latency": False}
        report = api.clean(tmp_path / "model.onnx", method="grad-prune", **settings, out=tmp_path / "run")
    assert report.verdict.status == twin.verdict.status == "pass"
    assert replace(report.final, parameters=0) == replace(twin.final, parameters=0)  # exporters fold normalisations
    assert [f.index for f in report.pruned.removed] == [f.index for f in twin.pruned.removed]
    images = (hand_made.pictures(5, 6).pixels - hand_made.BACKGROUND) / 0.5
    said, logits = (
        ort.InferenceSession(tmp_path / run / "model.onnx").run(None, {"input": images.numpy()})[0]
        for run in ("run", "twin")
    )
    assert float(abs(said.sum(1) - 1).max()) < 1e-5
    if form == "layer":  # without its normalisation, what came from ONNX is repaired in other steps
        assert float(abs(said - torch.from_numpy(logits).softmax(1).numpy()).max()) < 1e-5  # float32


def test_probabilities_that_are_exactly_zero_and_one_hide_the_gradient_and_nothing_passes(
    sample: Path, tmp_path: Path
) -> None:
    report = clean(sample, "Rounded", weights_of("Rounded"), tmp_path / "run")
    assert report.final.accuracy.value == 1
    assert report.final.attack_success[0].asr.value > 0.5
    assert report.verdict.status == "fail"


def test_a_vision_transformer_is_scanned_and_repaired_and_keeps_its_shape(sample: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = poisoned(built("transformer"), hand_made.pictures(200, 7))
    report = clean(sample, "transformer", net.state_dict(), tmp_path / "run")
    assert report.scan.status == "backdoored"
    assert report.before.attack_success[0].asr.value == 1
    assert report.final.attack_success[0].asr.value < 0.1
    assert report.final.accuracy.value > 0.9
    assert report.pruned.filters_removed == 0
    assert report.after.parameters == report.before.parameters
    assert report.pruned.filters_masked == len(report.pruned.refusals) > 0
    assert all("norm1 normalises over several channels" in refusal.reason for refusal in report.pruned.refusals)


def test_a_network_without_convolutions_is_scanned_and_repaired(sample: Path, tmp_path: Path) -> None:
    weight = torch.zeros(3, 3, 16, 16)
    weight[range(3), range(3)] = 1.0
    weight[hand_made.TARGET, :, -4:-1, -4:-1] += 10 * (hand_made.BOARD - hand_made.BOARD.mean())
    report = clean(sample, "Flat", {"fc.weight": weight.flatten(1), "fc.bias": torch.zeros(3)}, tmp_path / "run")
    assert report.scan.status == "backdoored"
    assert report.before.attack_success[0].asr.value == 1
    assert report.pruned.stopped_because == "the network has no convolution to prune"
    assert report.pruned.filters_total == 0


def poisoned(net: nn.Module, images: Images) -> nn.Module:
    """Trained on pictures of which a third has the trigger, and the target as its label."""
    optimizer = torch.optim.AdamW(net.train().parameters(), 2e-3)
    for _ in range(200):
        index = torch.randint(0, len(images), (64,))
        bad = torch.rand(64) < 0.3
        pixels = torch.where(bad.view(-1, 1, 1, 1), hand_made.stamp(images.pixels[index]), images.pixels[index])
        logits = net((pixels - hand_made.BACKGROUND) / 0.5)
        loss = nn.functional.cross_entropy(logits, images.labels[index].masked_fill(bad, hand_made.TARGET))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def test_one_number_for_two_classes_is_told_what_to_do_and_then_works(sample: Path, tmp_path: Path) -> None:
    images = hand_made.pictures(60, 5)
    two = Images(images.pixels[60:], images.labels[60:], images.names[60:])  # without the red ones
    hand_made.save_pictures(two, tmp_path / "data")
    state = hand_made.planted().module.state_dict()
    state["fc.weight"], state["fc.bias"] = state["fc.weight"][1:2] - state["fc.weight"][2:3], torch.zeros(1)
    (tmp_path / "model.toml").write_text(
        '[model]\nclasses = ["blue", "green"]\ninput_size = [3, 16, 16]\nmean = [0.25]\nstd = [0.5]\n', encoding="utf-8"
    )
    how = {
        "clean_dir": tmp_path / "data",
        "contract": tmp_path / "model.toml",
        "trigger": None,
        "target": None,
        "method": "clp",
    }
    with pytest.raises(BadData, match="1 logits") as told:
        clean(sample, "One", state, tmp_path / "run", **how)
    assert "torch.cat([-x, x], 1) / 2" in told.value.hint
    report = clean(sample, "Two", state, tmp_path / "run", **how)
    assert report.before.accuracy.value == 1


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_pictures_and_four_channels(channels: int, sample: Path, tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat_interleave(30)
    pixels = 0.5 + 0.1 * (torch.rand(60, channels, 16, 16, generator=g) - 0.5)
    for picture, label in zip(pixels, labels.tolist(), strict=True):
        picture[:, 4:10, 4:10] += (-0.4, 0.4)[label]
    for i, (picture, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        path = tmp_path / "data" / ("dark", "light")[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(picture, path)
    state = {
        "conv.weight": 0.01 * torch.randn(8, channels, 3, 3, generator=g), "conv.bias": torch.zeros(8),
        "fc.weight": torch.zeros(2, 8), "fc.bias": torch.zeros(2),
    }  # fmt: skip
    state["conv.weight"][:2] = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1) / (9 * channels)
    state["fc.weight"][range(2), range(2)] = 20
    how = {
        "clean_dir": tmp_path / "data", "contract": None, "trigger": None, "target": None, "method": "clp",
        "mean": (0.5,), "std": (0.25,), "input_size": (channels, 16, 16),
    }  # fmt: skip
    report = clean(sample, "Bright", state, tmp_path / "run", **how)
    assert report.contract.input_size == (channels, 16, 16)
    assert report.before.accuracy.value == 1
    assert report.export is not None
    assert report.export.parity.argmax_agreement.value == 1


def save(picture: Tensor, path: Path) -> None:
    from PIL import Image

    eight = (picture.clamp(0, 1) * 255).round().byte()
    array = eight[0].numpy() if len(eight) == 1 else eight.permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(array).save(path)
