"""Files that bite: none is executed, none is accepted, each is told apart from a merely broken one."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from harden.errors import UNSAFE, BadModel, UnsafeFile
from harden.loading import inspect, load, statedict
from harden.loading.opcodes import DamagedError
from harden.loading.rules import RULES
from harden.loading.scan import look, scan
from tests.loading import payloads

CANARY = "CANARY"
CORPUS = list(payloads.corpus(CANARY))
MERELY_BROKEN = {"prefix before the archive", "protocol 0, mark first, bare", "broken with junk, legacy"}
"""Refused as unreadable (exit 3) and not as unsafe (exit 4)."""


@pytest.fixture
def cage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which every payload would leave its mark; starting programs and connections fails loudly."""
    monkeypatch.chdir(tmp_path)

    def caught(*_: Any, **__: Any) -> NoReturn:
        pytest.fail("something was executed")

    for owner, name in ((subprocess, "Popen"), (socket, "socket"), (torch, "load"), (torch.jit, "load")):
        monkeypatch.setattr(owner, name, caught)
    return tmp_path


def test_the_corpus_is_large_and_its_harmless_twin_is_read(tmp_path: Path) -> None:
    assert len(payloads.callables(CANARY)) + len(payloads.stack_games(CANARY)) >= 100
    path = tmp_path / "harmless.pt"
    path.write_bytes(payloads.HARMLESS)
    assert [layer.name for layer in inspect(path).layers] == ["fc.weight", "fc.bias"]


def test_nothing_of_the_corpus_is_executed_or_accepted(cage: Path) -> None:
    refused: list[UnsafeFile] = []
    accepted, wrongly_named = [], []
    for name, data in CORPUS:
        path = cage / "model.pt"
        path.write_bytes(data)
        try:
            scan(path)
        except UnsafeFile as error:
            refused.append(error)
        except BadModel as error:
            wrongly_named.append((name, error.message))
        else:
            accepted.append(name)
        assert not (cage / CANARY).exists(), name
    assert not accepted
    assert [n for n in wrongly_named if n[0] not in MERELY_BROKEN] == []
    for refusal in refused:
        assert refusal.exit_code == UNSAFE
        assert refusal.hint
        assert {f.rule for f in refusal.findings} <= set(RULES)
        assert any(f.severity in ("high", "critical") for f in refusal.findings)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".onnx", ".bin", ".png"])
def test_the_suffix_changes_nothing(cage: Path, suffix: str) -> None:
    path = cage / f"model{suffix}"
    path.write_bytes(payloads.archive(payloads.callables(CANARY)["os.system"]))
    with pytest.raises(UnsafeFile, match="pickle-global"):
        load(path, arch="torchvision:resnet18")


def test_findings_name_the_place_and_everything_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    two = payloads.call("posix", "system", payloads.text("a")) + b"0" + payloads.call("pty", "spawn")
    path.write_bytes(payloads.archive(payloads.pickle(two)))
    with pytest.raises(UnsafeFile) as caught:
        load(path)
    assert ["posix.system" in f.message or "pty.spawn" in f.message for f in caught.value.findings] == [True, True]
    assert caught.value.findings[0].location == "data.pkl, byte 2"


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    with path.open("wb") as file:
        file.truncate(10_000_000)
    with pytest.raises(UnsafeFile, match="max-input") as caught:
        load(path, max_size=1_000_000)
    assert caught.value.findings[0].rule == "file-size"


@pytest.mark.parametrize(
    "body",
    [
        b")" + b"\x85" * 200_000,  # as deep as it is long
        b")q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"}h\x00Ns",  # 2**60 leaves, as a dict's key
        b"]q\x00h\x00a",  # a list that holds itself
        b"}(" + b"".join(payloads.number(k * (2**61 - 1)) + b"N" for k in range(1, 120)) + b"u",  # keys of one hash
    ],
)
def test_a_pickle_cannot_make_its_reader_slow(body: bytes) -> None:
    start = time.process_time()  # processor time: what else runs here is not its fault
    with contextlib.suppress(DamagedError):
        statedict.find(look(payloads.archive(payloads.pickle(body))))
    assert time.process_time() - start < 60  # a reader that is caught takes hours, or all of the memory
