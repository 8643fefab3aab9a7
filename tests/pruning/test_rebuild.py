"""From the two files and the original architecture back to the same smaller network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from harden.errors import BadModel, Mismatch
from harden.pruning.rebuild import RECORD, WEIGHTS, read, rebuild, save
from harden.pruning.record import weights_sha256
from harden.pruning.surgery import operate
from harden.types import Filter, Proposal, Pruned, Run, Source
from tests.pruning.nets import NETS, SIZE, network, splits


def pruned(name: str) -> Pruned:
    model = network(name)
    guilty = tuple(Filter(n, i) for n, m in model.network.named_modules() if isinstance(m, nn.Conv2d) for i in (0, 2))
    return operate(model, Proposal(guilty), splits(), Run(), align=1, max_accuracy_drop=1.0)


@pytest.mark.parametrize("name", NETS)
def test_a_saved_network_is_built_again(name: str, tmp_path: Path) -> None:
    smaller = pruned(name)
    written = save(smaller, tmp_path, Source(Path("vendor.pt"), "ab" * 32, "state_dict", 1))
    record, state = read(tmp_path)
    assert record == written.record
    assert record["source_sha256"] == "ab" * 32
    again = rebuild(NETS[name](), record, state)
    pixels = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(pixels), smaller.module(pixels))
    for module in again.modules():  # the sizes that a layer says it has are those of its weights
        if isinstance(module, nn.Conv2d):
            shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
            assert tuple(module.weight.shape) == shape
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            assert module.num_features == len(module.running_mean)
        elif isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == tuple(module.weight.shape)


@pytest.mark.parametrize("name", NETS)
def test_the_record_says_which_original_positions_are_left(name: str) -> None:
    model = network(name)
    guilty = tuple(Filter(n, i) for n, m in model.network.named_modules() if isinstance(m, nn.Conv2d) for i in (0, 2))
    smaller = operate(model, Proposal(guilty), splits(), Run(), align=1, max_accuracy_drop=1.0, renew_statistics=False)
    before, after = model.network.state_dict(), smaller.module.state_dict()
    closed = {(f.layer, f.index) for f in smaller.masked}
    for layer, ends in smaller.record["kept"].items():
        if f"{layer}.weight" not in after or any(name == layer for name, _ in closed):
            continue
        expected = before[f"{layer}.weight"]
        if "out" in ends:
            expected = expected[ends["out"]]
        if "in" in ends:
            expected = expected[:, ends["in"]]
        assert torch.equal(after[f"{layer}.weight"], expected)


FRESH = """
import pathlib, pickle, sys
sys.modules["torch_pruning"] = None
import torch
from torch import nn
def refuse(*_, **__): raise AssertionError("unpickled")
pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
from harden.pruning.rebuild import read, rebuild
def block(inp, out, kernel, groups=1):
    conv = nn.Conv2d(inp, out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())
net = nn.Module()
net.stem = block(3, 8, 3)
net.middle = nn.Sequential(block(8, 16, 1), block(16, 16, 3, 16), block(16, 8, 1))
net.head = nn.Module()
net.head.fc = nn.Linear(8, 10)
print(sum(p.numel() for p in rebuild(net, *read(pathlib.Path(sys.argv[1]))).parameters()))
"""


def test_a_fresh_process_needs_neither_pickle_nor_torch_pruning(tmp_path: Path) -> None:
    save(pruned("depthwise"), tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == json.loads((tmp_path / RECORD).read_text())["parameters"][1]


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        save(pruned("residual"), tmp_path / folder)
    for name in (WEIGHTS, RECORD):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == [WEIGHTS, RECORD]


def test_other_weights_are_refused(tmp_path: Path) -> None:
    save(pruned("plain"), tmp_path)
    record, state = read(tmp_path)
    state["stem.0.weight"][0, 0, 0, 0] += 1
    with pytest.raises(Mismatch, match="not those of the record"):
        rebuild(NETS["plain"](), record, state)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    save(pruned("plain"), tmp_path)
    record, state = read(tmp_path)
    with pytest.raises(Mismatch, match="do not fit the architecture"):
        rebuild(NETS["residual"](), record, state)


def test_a_record_that_contradicts_the_weights_is_refused(tmp_path: Path) -> None:
    save(pruned("plain"), tmp_path)
    record, state = read(tmp_path)
    record["kept"]["stem.0"]["out"].append(0)
    with pytest.raises(Mismatch, match="keeps 7 positions, the weights have 6"):
        rebuild(NETS["plain"](), record, state)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (RECORD, None, "cannot be read"),
        (WEIGHTS, None, "cannot be read"),
        (RECORD, b"{", "damaged"),
        (WEIGHTS, b"\x08\0\0\0\0\0\0\0{", "damaged"),
        (RECORD, b'{"schema": 7}', "expected schema 1, found 7"),
        (RECORD, b"[]", "expected schema 1, found list"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    save(pruned("plain"), tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadModel, match=says):
        read(tmp_path)


def test_the_hash_reads_names_types_shapes_and_values() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    others = [
        {"c": torch.zeros(2, 3), "b": torch.ones(1)},
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "b": torch.full((1,), 2.0)},
    ]
    assert weights_sha256(dict(reversed(base.items()))) == weights_sha256(base)
    assert len({weights_sha256(state) for state in [base, *others]}) == 5
