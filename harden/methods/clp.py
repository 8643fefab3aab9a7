"""CLP: prune the filters with an outlying Lipschitz bound, without a single image."""

from __future__ import annotations

from harden.pruning.clp import Lipschitz
from harden.triggers.nothing import Nothing
from harden.types import Method


def clp(*, u: float = 3.0) -> Method:
    """As published, but each convolution is paired with the normalisation that really follows it."""
    return Method(
        "clp",
        "prunes filters of outlying Lipschitz bound; needs no images",
        recover=Nothing(),
        prune=Lipschitz(u),
        paper="Zheng et al., Data-Free Backdoor Removal Based on Channel Lipschitzness, ECCV 2022",
        baseline=True,
    )
