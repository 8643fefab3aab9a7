"""The methods by name: a factory for each, whose parts are frozen dataclasses with their settings as fields.

A new method is one file here and two lines below: its import, and its entry.
"""

from __future__ import annotations

from collections.abc import Callable

from harden.methods.anp import anp
from harden.methods.auto import auto
from harden.methods.baerase import baerase
from harden.methods.clp import clp
from harden.methods.edit import edit
from harden.methods.fine_pruning import fine_pruning
from harden.methods.fst import fst
from harden.methods.ft import ft
from harden.methods.ft_sam import ft_sam
from harden.methods.grad_prune import grad_prune
from harden.methods.i_bau import i_bau
from harden.methods.nc_unlearn import nc_unlearn
from harden.methods.rnp import rnp
from harden.methods.sau import sau
from harden.methods.tsbd import tsbd
from harden.methods.ulrl import ulrl
from harden.types import Method

METHODS: dict[str, Callable[..., Method]] = {
    "anp": anp,
    "auto": auto,
    "baerase": baerase,
    "clp": clp,
    "edit": edit,
    "fine-pruning": fine_pruning,
    "fst": fst,
    "ft": ft,
    "ft-sam": ft_sam,
    "grad-prune": grad_prune,
    "i-bau": i_bau,
    "nc-unlearn": nc_unlearn,
    "rnp": rnp,
    "sau": sau,
    "tsbd": tsbd,
    "ulrl": ulrl,
}
