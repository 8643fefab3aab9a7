"""A short run of benchmarks/ordinary.py: what people really send is opened, and is what they sent."""

from __future__ import annotations

import pytest

from benchmarks import ordinary


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("network", ["mobilenet_v3_small", "timm:lcnet_050"])
def test_every_form_of_a_network_is_opened(network: str) -> None:
    pytest.importorskip(network.partition(":")[0] if ":" in network else "torchvision")
    (files,) = ordinary.rows([network])
    found = {row["form"]: (row["outcome"], row["why"]) for row in files if row["form"] != "guess"}
    forms = set(ordinary.FORMS) - (set() if network.startswith("timm:") else {"timm folder"})
    assert found == dict.fromkeys(forms, ("same", ""))
    assert files[0]["outcome"] == "True"  # recognised from its weights alone


def test_weights_without_the_versions_of_their_layers_are_opened() -> None:
    """Safetensors keeps none, and torchvision's MNASNet refuses a state dict without."""
    (files,) = ordinary.rows(["mnasnet0_5"], ["safetensors", "from DataParallel (module.)"])
    assert [row["outcome"] for row in files[1:]] == ["same", "same"]


@pytest.mark.filterwarnings("ignore")
def test_position_codes_of_the_older_exporter_are_imported() -> None:
    """EdgeNeXt makes them out of running sums, sines and cosines of the picture's height and width."""
    pytest.importorskip("timm")
    (files,) = ordinary.rows(["timm:edgenext_xx_small"], ["ONNX, older exporter"])
    assert files[1]["outcome"] == "same", files[1]["why"]
