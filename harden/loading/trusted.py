"""The other way in, for files that the user vouches for: their own loaders run whatever the file says."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import nn

from harden.errors import BadModel
from harden.loading.scan import Scanned


def run(scanned: Scanned) -> nn.Module:
    """Loads a file as its author meant it, code and all. Only ever after --trust-code."""
    buffer = io.BytesIO(scanned.data)
    kind = scanned.contents.format
    try:
        loaded: Any
        if kind == "torchscript":
            loaded = torch.jit.load(buffer, map_location="cpu")
        elif kind == "torch-export":
            loaded = torch.export.load(buffer).module()
        else:
            loaded = torch.load(buffer, map_location="cpu", weights_only=False)
    except Exception as error:  # trusted code may fail in any way
        raise BadModel(f"{scanned.source.path} failed: {type(error).__name__}: {str(error)[:300]}") from None
    if isinstance(loaded, dict):
        loaded = next((loaded[key] for key in ("model", "net", "network") if key in loaded), loaded)
    if not isinstance(loaded, nn.Module):
        raise BadModel(
            f"{scanned.source.path} holds a {type(loaded).__name__} and no network",
            hint="weights alone need --arch and no --trust-code",
        )
    return loaded if kind == "torch-export" else loaded.float().eval()
