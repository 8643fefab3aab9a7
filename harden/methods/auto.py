"""The default: needs no trigger, removes the filters that serve one, and says whether there was anything to remove.

recover   the class that a strangely small change reaches, over several families of changes   (triggers/smallest);
          where that leaves a doubt: whether it is the class whose row clean unlearning moves  (repair/ulrl),
          the class that can be made louder than all others                                   (triggers/margin),
          or whether few filters serve it                                                      (pruning/few)
prune     filters whose closing is seen to gain more on stand-ins than it costs on clean images   (pruning/gated)
repair    relearning with stand-ins that are looked for again, distilled from the suspect      (repair/immunise)
"""

from __future__ import annotations

from harden.pruning.few import FewFilters
from harden.pruning.gated import GateSearch
from harden.repair.immunise import Immunise
from harden.repair.ulrl import RowShift
from harden.triggers.margin import LargestMargin
from harden.triggers.pairs import OneClass
from harden.triggers.smallest import SmallestChange
from harden.types import Method


def auto() -> Method:
    return Method(
        "auto",
        "smallest changes of many families, checked gate scores, relearning with regenerated stand-ins",
        recover=SmallestChange(witness=RowShift(), listener=LargestMargin(), second=FewFilters(), one_class=OneClass()),
        prune=GateSearch(),
        repair=Immunise(),
    )
