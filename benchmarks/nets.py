"""Small networks of kinds that the zoo does not have, for pictures of 32 x 32; each takes the number of classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from harden.bench.small_net import small_net


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen, filter each channel by itself, narrow."""

    def __init__(self, inp: int, out: int, stride: int, widen: int = 4) -> None:
        super().__init__()
        inner = inp * widen
        self.body = nn.Sequential(
            nn.Conv2d(inp, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.skips = stride == 1 and inp == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.skips else y


class MobileNet(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True)]
        inp = 16
        for out, count, stride in ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 3, 2)):
            for j in range(count):
                layers.append(InvertedResidual(inp, out, stride if j == 0 else 1))
                inp = out
        layers += [nn.Conv2d(inp, 256, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU6(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class DenseLayer(nn.Module):
    """DenseNet's layer: norm before the convolution, its output beside its input."""

    def __init__(self, inp: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inp)
        self.conv = nn.Conv2d(inp, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


class DenseNet(nn.Module):
    def __init__(self, num_classes: int, growth: int = 12, count: int = 5) -> None:
        super().__init__()
        inp = 2 * growth
        layers: list[nn.Module] = [nn.Conv2d(3, inp, 3, padding=1, bias=False)]
        for stage in range(3):
            for _ in range(count):
                layers.append(DenseLayer(inp, growth))
                inp += growth
            if stage < 2:
                layers += [nn.BatchNorm2d(inp), nn.ReLU(inplace=True), nn.Conv2d(inp, inp // 2, 1, bias=False)]
                layers.append(nn.AvgPool2d(2))
                inp //= 2
        layers += [nn.BatchNorm2d(inp), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inp, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class Excited(nn.Module):
    """A block with SiLU and squeeze-and-excitation, as in EfficientNet."""

    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inp, out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.squeeze = nn.Conv2d(out, out // 4, 1)
        self.excite = nn.Conv2d(out // 4, out, 1)
        self.skips = stride == 1 and inp == out

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm(self.conv(x)))
        y = y * self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        z: Tensor = x + y if self.skips else y
        return z


class SqueezeExcite(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        sizes = ((3, 24, 1), (24, 24, 1), (24, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1), (96, 128, 2))
        self.features = nn.Sequential(*(Excited(*size) for size in sizes))
        self.classifier = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class Plain(nn.Module):
    """As tutorials have it: convolutions with nothing to normalise them, `view`, dropout and two linear layers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inp = 3
        for out in (32, 32, 64, 64, 96):
            layers += [nn.Conv2d(inp, out, 3, padding=1), nn.ReLU(inplace=True)]
            if inp == out or out == 96:
                layers.append(nn.MaxPool2d(2))
            inp = out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(96 * 16, 128), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(128, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).view(len(x), -1))
        return logits


class PreActBlock(nn.Module):
    """Norm and ReLU before each convolution; nothing normalises what the second one adds to the stream."""

    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inp)
        self.conv1 = nn.Conv2d(inp, out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inp, out, 1, stride, bias=False) if stride != 1 or inp != out else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(y)
        z: Tensor = self.conv2(F.relu(self.bn2(self.conv1(y)))) + skip
        return z


class PreActResNet(nn.Module):
    """PreActResNet-18 has stages of (w, 2w, 4w, 8w), a wide ResNet of depth 16 has (16, 16k, 32k, 64k)."""

    def __init__(self, num_classes: int, stem: int, stages: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, stem, 3, 1, 1, bias=False)]
        inp = stem
        for stage, out in enumerate(stages):
            layers += [PreActBlock(inp, out, 1 if stage == 0 else 2), PreActBlock(out, out, 1)]
            inp = out
        layers += [nn.BatchNorm2d(inp), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(inp, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.features(x).mean((2, 3)))
        return logits


class LeNet(nn.Module):
    """Two convolutions and three linear layers, nothing normalised; flattened with `view`."""

    def __init__(self, num_classes: int, channels: int = 3, size: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 5)
        self.conv2 = nn.Conv2d(16, 32, 5)
        self.fc1 = nn.Linear(32 * (size // 4 - 3) ** 2, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(len(x), -1)
        logits: Tensor = self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))
        return logits


def lenet(num_classes: int = 12) -> nn.Module:
    return LeNet(num_classes)


def grey_lenet(num_classes: int = 10) -> nn.Module:
    """For pictures of 28 x 28 with one channel."""
    return LeNet(num_classes, 1, 28)


def small(num_classes: int = 10) -> nn.Module:
    """With batch normalisation."""
    return small_net(num_classes)


def grey_small(num_classes: int = 10) -> nn.Module:
    """With batch normalisation, for pictures with one channel."""
    return small_net(num_classes, 1)


def mobile(num_classes: int = 10) -> nn.Module:
    return MobileNet(num_classes)


def dense(num_classes: int = 10) -> nn.Module:
    return DenseNet(num_classes)


def excited(num_classes: int = 10) -> nn.Module:
    return SqueezeExcite(num_classes)


def plain(num_classes: int = 10) -> nn.Module:
    return Plain(num_classes)


def preact(num_classes: int = 10) -> nn.Module:
    """PreActResNet-18, a quarter as wide."""
    return PreActResNet(num_classes, 16, (16, 32, 64, 128))


def preact_18(num_classes: int = 10) -> nn.Module:
    """PreActResNet-18, as wide as published: 11 million parameters."""
    return PreActResNet(num_classes, 64, (64, 128, 256, 512))


def wide_16_1(num_classes: int = 10) -> nn.Module:
    """The wide ResNet of depth 16 that is as wide as any."""
    return PreActResNet(num_classes, 16, (16, 32, 64))


def convnext(num_classes: int = 10) -> nn.Module:
    """Torchvision's ConvNeXt, narrow and shallow; it takes a quarter of each side away at once, so for 64 x 64."""
    widths = (32, 64, 128)
    stages = [CNBlockConfig(a, b, 2) for a, b in zip(widths, (*widths[1:], None), strict=True)]
    made: nn.Module = ConvNeXt(stages, stochastic_depth_prob=0.1, layer_scale=0.1, num_classes=num_classes)
    return made
