"""Logits of a network that ends in a softmax: what goes into it, taken where it is, with the network left as it came.

Probabilities that are exactly 0 and 1 have no gradient, and hide what a cut changes. What is saved and exported is the
network itself, which goes on giving probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_SOFTMAX = (torch.softmax, Tensor.softmax, F.softmax, torch.special.softmax)


class _LastSoftmax(TorchFunctionMode):  # type: ignore[no-untyped-call]
    """Sees every call of torch in a with-block, and remembers the last softmax of them."""

    entered: Tensor | None = None
    left: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _SOFTMAX:
            self.entered, self.left = args[0] if args else (kwargs or {})["input"], result
        return result


def before_softmax(network: nn.Module, images: Tensor) -> tuple[Tensor, bool]:
    """The outputs, or, if they are those of a softmax over the classes, what went into it; and whether that is so."""
    with _LastSoftmax() as last:
        outputs: Tensor = network(images)
    if last.entered is None or outputs is not last.left or outputs.dim() != 2:
        return outputs, False
    with torch.no_grad():
        over_classes = torch.equal(outputs, last.entered.softmax(1))
    return (last.entered, True) if over_classes else (outputs, False)
