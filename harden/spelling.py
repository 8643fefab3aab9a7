"""What somebody probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from harden.errors import UsageError


def nearest(word: str, known: Iterable[str]) -> str:
    """Did you mean this one? With a space in front; empty where nothing is near."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.55)
    return f" Did you mean {close[0]!r}?" if close else ""


def refuse_unknown(words: Iterable[str], known: Iterable[str], what: str, kind: str = "setting") -> None:
    """Refuses the first word that is not known; `what` says where it stood, such as "the plan"; `kind` what it is."""
    known = sorted(known)
    for word in words:
        if word not in known:
            raise UsageError(
                f"{what} has no {kind} called {word!r}.{nearest(word, known)}",
                hint=f"Known: {', '.join(known) or 'none'}.",
            )
