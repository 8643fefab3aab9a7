"""The only place where exceptions become sentences and exit codes.

What ends a command, and how it is told to the shell:

    HardenError, ExportError    its message, its hint, its code (see errors.py)
    out of memory, a full disk  3
    Ctrl-C                      130, SIGTERM 143; run folders in the making are gone by then. Not in the middle of an
                                import, which takes seconds for some: it would leave half a module behind, for others
                                to stumble over, or swallow it
    a closed pipe               141, quietly
    anything else               70: a bug, with its traceback
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import time
import traceback
from _thread import interrupt_main
from collections.abc import Callable
from threading import Timer
from types import FrameType

from harden.errors import BUG, INTERRUPTED, TROUBLE, HardenError, UnsafeFile

SURROUNDINGS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Make room, or write elsewhere with --out."),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "Give another place, or the right to use this one."),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENODEV), "The disk or the network behind it is in trouble."),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Too many files are open: raise the limit (ulimit -n)."),
    errno.ENAMETOOLONG: "Use a shorter name.",
}
"""What the system may refuse at any place, which is no bug, and what to do about it."""
TERMINATED = 128 + signal.SIGTERM
BROKEN_PIPE = 128 + 13  # as a shell says it of a program that SIGPIPE ended
AGAIN = 0.05
"""Seconds until an import is asked again whether it is over."""
PATIENCE = 20.0
"""Seconds that an import is given."""


def run(main: Callable[[], object]) -> int:
    """Runs the command line and gives back its exit code; typer says by SystemExit how it ended."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as for what a shell runs in the background
        signal.signal(signal.SIGINT, _Ending())
    signal.signal(signal.SIGTERM, _Ending())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a bare locale, or a name that is text in no encoding
    code = _ended(main)
    try:
        sys.stdout.flush()  # what is still in the buffer may have no place to go
    except BrokenPipeError:
        return broken_pipe()
    except OSError as error:
        broken_pipe()
        return refuse(HardenError(f"the result cannot be printed: {error.strerror}.", hint="Send it elsewhere."))
    return code


def _ended(main: Callable[[], object]) -> int:
    try:
        main()
        return 0
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer exits with 1 then, which only the policy may do
            return broken_pipe()
        if end.code == INTERRUPTED:  # typer has caught Ctrl-C and says nothing
            return interrupted(_behind(end))
        return end.code if isinstance(end.code, int) else 0 if end.code is None else TROUBLE
    except HardenError as error:
        return refuse(error)
    except KeyboardInterrupt as error:
        return interrupted(error)
    except BrokenPipeError:
        return broken_pipe()
    except MemoryError:
        return out_of_memory("There is not enough memory")
    except Exception as error:
        return foreign(error)


def interrupted(error: BaseException) -> int:
    """What a run that was interrupted has left to go on from."""
    say(f"Interrupted. {noted(error) or 'Nothing was left behind.'}")
    return INTERRUPTED


def _behind(end: BaseException) -> BaseException:
    """The interrupt that typer turned into an end, or that end."""
    found: BaseException | None = end
    while found is not None and not isinstance(found, KeyboardInterrupt):
        found = found.__cause__ or found.__context__
    return found or end


def refuse(error: HardenError) -> int:
    """A sentence, the findings if a file was refused for them, and the next step."""
    say(f"Error: {error.message}")
    if isinstance(error, UnsafeFile):
        for finding in (f for f in error.findings if f.message not in error.message):
            place = f" ({finding.location})" if finding.location else ""
            say(f"  {finding.severity}: {finding.rule}: {finding.message}{place}")
    if error.hint:
        say(f"  -> {error.hint}")
    if noted(error):
        say(f"  -> {noted(error)}")
    return error.exit_code


def noted(error: BaseException) -> str:
    """What a run adds to whatever ended it."""
    return " ".join(getattr(error, "__notes__", ()))


def foreign(error: Exception) -> int:
    """Errors of other packages: the expected ones by name, since to import them would take seconds; else a bug."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if "ExportError" in names:
        return refuse(HardenError(getattr(error, "message", str(error)), hint=getattr(error, "hint", "")))
    if isinstance(error, OSError) and error.errno in SURROUNDINGS:
        place = f"{error.filename}: " if error.filename else ""
        return refuse(HardenError(f"{place}{error.strerror}.", hint=SURROUNDINGS[error.errno]))
    if "OutOfMemoryError" in names or "DefaultCPUAllocator: can't allocate memory" in str(error):
        return out_of_memory(f"There is not enough memory: {str(error).splitlines()[0]}")
    traceback.print_exc()
    say("This is a bug in harden, not in your model or your data. Please report it with the lines above.")
    return BUG


def out_of_memory(message: str) -> int:
    say(f"Error: {message}")
    say("  -> Use fewer or smaller images, or --device cpu.")
    return TROUBLE


def broken_pipe() -> int:
    """Nobody reads on: no complaint, not even from the interpreter when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def say(text: str) -> None:
    """To the person; text from model files may hold control characters, which a terminal would obey."""
    print("".join(c if c.isprintable() or c == "\n" else "�" for c in text), file=sys.stderr)


class _Ending:
    """Ctrl-C or SIGTERM: now, or when the import is over that it came into."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.comes_again = False

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        if self.comes_again:
            return
        self.since = self.since or time.monotonic()
        if _importing(frame) and time.monotonic() - self.since < PATIENCE:
            self.comes_again = True
            later = Timer(AGAIN, self._again, (signal_number,))
            later.daemon = True
            later.start()
        elif signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(TERMINATED)

    def _again(self, signal_number: int) -> None:
        self.comes_again = False
        interrupt_main(signal.Signals(signal_number))


def _importing(frame: FrameType | None) -> bool:
    """Is a module on its way, of those that the command has asked for?"""
    while frame is not None and frame.f_code is not run.__code__:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
