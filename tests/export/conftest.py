"""A tiny network with what matters in it: convolutions, batch norm with statistics of its own, a residual, a head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harden_export.files import OnnxFile
from harden_export.onnx_file import export_onnx

SIZE = (3, 16, 16)
CLASSES = 5


class Small(nn.Module):
    """Two convolutions, the second one around a shortcut."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.block(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def small(seed: int = 0, width: int = 16) -> nn.Module:
    """A network with random weights and normalisation statistics that are not the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Small(width)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


def answers(module: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The module as a function of arrays."""
    with torch.no_grad():
        logits: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
    return logits


@pytest.fixture(scope="session")
def network() -> nn.Module:
    return small()


@pytest.fixture(scope="session")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(40, *SIZE)).astype(np.float32)


@pytest.fixture(scope="session")
def names(images: NDArray[np.float32]) -> list[str]:
    return [f"class/{i:03}.png" for i in range(len(images))]


@pytest.fixture(scope="session")
def exported(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> OnnxFile:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    return export_onnx(network, path, input_size=SIZE, metadata={"classes": "a b c d e"})
