"""Networks as people deploy them: cut exactly, or refused with a reason, and never broken."""

from __future__ import annotations

import pytest

from benchmarks import architectures
from benchmarks.architectures import measure

NETWORKS = {
    "resnet18": "exact",
    "mobilenet_v2": "exact",
    "squeezenet1_1": "exact",
    "regnet_y_400mf": "exact",
    "googlenet": "exact",
    "mnasnet0_5": "exact",
    "densenet121": "exact",
    "shufflenet_v2_x0_5": "exact",
    "convnext_tiny": "exact",
    "timm:inception_next_atto": "refused",
}


@pytest.mark.parametrize("spec", NETWORKS)
def test_cut_exactly_or_refused(spec: str) -> None:
    if spec.startswith("timm:"):
        pytest.importorskip("timm")
    row = measure(spec, size=64 if spec == "squeezenet1_1" else 32, layers=3)
    assert row["result"] == NETWORKS[spec], row
    assert row["result"] == "exact" or row["why the rest stays"], row


def test_every_convolutional_classifier_of_torchvision_is_in_the_matrix() -> None:
    import torchvision

    named = set(torchvision.models.list_models(module=torchvision.models))
    transformers = {name for name in named if name.startswith(("vit_", "swin_"))}
    assert named - transformers <= set(architectures.NETWORKS)
