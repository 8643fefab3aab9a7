"""How little would the last features have to move for every image to be given one class?

    phi_i        features of image i, as the last linear layer reads them     W, b   that layer
    s_k        = argmin |s|^2   so that   (w_k - w_j) (s + phi_i) + b_k - b_j >= 0   for all j and most i
    size_k     = |s_k|

A backdoor teaches the network one direction that overrules everything else, so the target's |s_k| is strangely
small. No image is optimised: it costs one forward pass and a small quadratic programme for each class. After the
feature displacement of trigger-activated changes (arXiv 2511.08944), with a quantile over images in place of all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harden.head import head
from harden.network import Classifier, predict
from harden.types import Images


def displacements(model: Classifier, images: Images, quantile: float = 0.9, steps: int = 2000) -> Tensor | None:
    """|s_k| for each class; None where the network ends in no linear layer."""
    last = head(model)
    if last is None:
        return None
    features: list[Tensor] = []

    def keep(*called: Any) -> None:
        features.append(called[1][0].detach().flatten(1))

    handle = last.register_forward_pre_hook(keep)
    try:
        predict(model, images)
    finally:
        handle.remove()
    phi = torch.cat(features).double()
    W, b = last.weight.detach().double(), last.bias
    logits = phi @ W.T + (b.detach().double() if b is not None else 0)
    labels = images.labels.to(phi.device)
    return torch.stack([_least(W, logits[labels != k], k, quantile, steps) for k in range(len(W))]).float()


def _least(W: Tensor, logits: Tensor, k: int, quantile: float, steps: int) -> Tensor:
    """|s_k| by projected gradient ascent on the dual: max over l >= 0 of l need - |D^T l|^2 / 2."""
    if not len(logits):
        return torch.tensor(torch.inf, dtype=W.dtype, device=W.device)
    D = W[k] - W  # (K, d): row j is w_k - w_j
    need = torch.quantile(logits - logits[:, k : k + 1], quantile, dim=0)  # (K,)
    need[k] = -1.0
    G = D @ D.T
    step = 1 / torch.linalg.matrix_norm(G, 2).clamp_min(1e-12)
    dual = torch.zeros_like(need)
    for _ in range(steps):
        dual = (dual + step * (need - G @ dual)).clamp_min(0)
    size: Tensor = (D.T @ dual).norm()
    return size
