"""Mutates model files and opens them: every outcome has to be a model or a sentence, and to come quickly.

    python benchmarks/fuzz.py [FILES] [SEED]

Each seed file (every format that is read) is cut, flipped, spliced and overwritten at random places. Anything else
than success or a HardenError, more than ten seconds of processor time, or more memory than the limit for files, their
tensors and what was in use before together, is reported with the seed that makes it again.
"""

from __future__ import annotations

import io
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn

from harden.errors import HardenError
from harden.loading import load

LIMIT = 10.0
"""Seconds of processor time for one file."""
MAX_SIZE = 1 << 26
"""What the files may unpack to: --max-size."""
WARM = 200
"""Files after which every library has been loaded."""
MEMORY = 4 * MAX_SIZE
"""Bytes by which the process may outgrow its size after the first files: a file, its tensors, a copy, the network."""


class HangError(BaseException):
    """Raised in the middle of a file that takes too long; no handler of ordinary errors takes it for one."""


def _hangs(*_: object) -> NoReturn:
    raise HangError


def peak() -> int:
    """The most memory that this process has ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def network() -> nn.Module:
    """Small enough that a file is opened in milliseconds."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()


def seeds(*, quick: bool = False) -> dict[str, bytes]:
    """One whole file of each format, or of the quick ones."""
    import safetensors.torch

    net, made = network(), {}
    for name, value, options in (
        ("state dict", net.state_dict(), {}),
        ("legacy", net.state_dict(), {"_use_new_zipfile_serialization": False}),
        ("whole module", net, {}),
    ):
        buffer = io.BytesIO()
        torch.save(value, buffer, **options)
        made[name] = buffer.getvalue()
    made["safetensors"] = safetensors.torch.save(net.state_dict())
    if quick:
        return made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(net), buffer)
        made["torchscript"] = buffer.getvalue()
        buffer = io.BytesIO()
        torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), buffer)
        made["export"] = buffer.getvalue()
        program = torch.onnx.export(net, (torch.zeros(1, 3, 8, 8),), dynamo=True, verbose=False)
        assert program is not None
        made["onnx"] = program.model_proto.SerializeToString()
    return made


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One to four random changes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not changed:
            break
        at = rng.randrange(len(changed))
        kind = rng.randrange(7)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[at] = rng.choice((0, 255, 127, 128, 1))
        elif kind == 3:
            changed[at : at + rng.randint(1, 16)] = rng.randbytes(rng.randint(0, 16))
        elif kind == 4:
            del changed[at : at + rng.randint(1, 64)]
        elif kind == 5:
            donor = rng.choice(others)
            start = rng.randrange(len(donor))
            changed[at:at] = donor[start : start + rng.randint(1, 256)]
        else:
            changed[at : at + 8] = rng.choice((2**63 - 1, 2**32, 2**40, 0)).to_bytes(8, "little")
    return bytes(changed)


def run(files: int, seed: int, *, quick: bool = False) -> tuple[Counter[str], list[str]]:
    """Outcomes by name, and what must not happen."""
    originals = seeds(quick=quick)
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        arch = Path(folder) / "nets.py"
        arch.write_text(
            "from torch import nn\ndef net(num_classes=3):\n    return nn.Sequential("
            "nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), "
            "nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))\n"
        )
        path = Path(folder) / "model"
        usual = peak()
        signal.signal(signal.SIGPROF, _hangs)
        for number in range(files):
            rng = random.Random(f"{seed}/{number}")
            name = rng.choice(list(originals))
            path.write_bytes(mutate(originals[name], list(originals.values()), rng))
            named = None if name in ("whole module", "onnx") else f"{arch}:net"
            signal.setitimer(signal.ITIMER_PROF, LIMIT)
            try:
                load(path, arch=named, mean=[0], std=[1], input_size=[3, 8, 8], max_size=MAX_SIZE)
                outcomes["opened"] += 1
            except HardenError as error:
                outcomes[type(error).__name__] += 1
            except HangError:
                failures.append(
                    f"file {number} of seed {seed} ({name}): over {LIMIT:.0f} s in\n{traceback.format_exc()}"
                )
            except Exception:
                failures.append(f"file {number} of seed {seed} ({name}):\n{traceback.format_exc(limit=-4)}")
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            if number < WARM:
                usual = peak()
            elif peak() > usual + MEMORY:
                failures.append(f"file {number} of seed {seed} ({name}): {(peak() - usual) >> 20} MiB more than before")
                usual = peak()
    return outcomes, failures


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    found, wrong = run(count, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(f"{count} files: " + ", ".join(f"{name} {number}" for name, number in found.most_common()))
    print(f"at most {peak() >> 20} MiB of memory, with torch and ONNX Runtime")
    print("\n".join(wrong[:20]) or "nothing else happened")
    sys.exit(bool(wrong))
