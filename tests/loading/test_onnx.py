"""ONNX files become networks; what cannot become one is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from harden.errors import BadModel, UnsafeFile
from harden.loading import inspect, load, opening
from harden.loading.onnx_network import _plain
from harden.loading.onnx_ops import OPERATORS

PIXELS = [3, 8, 8]


def graph(extra: list[onnx.NodeProto] | None = None, *, end: str = "logits", batch: int | str = "n") -> onnx.ModelProto:
    """Convolution, ReLU, mean, product: by hand, with a free batch size unless one is given."""
    rng = np.random.default_rng(0)
    weights = {
        "conv.weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "conv.bias": rng.standard_normal(4).astype(np.float32),
        "fc.weight": rng.standard_normal((5, 4)).astype(np.float32),
        "fc.bias": rng.standard_normal(5).astype(np.float32),
        "shape": np.array([0 if batch == "n" else batch, 4], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["images", "conv.weight", "conv.bias"], ["a"], pads=[1, 0, 0, 1], strides=[2, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["d"]),
        helper.make_node("Gemm", ["d", "fc.weight", "fc.bias"], ["logits"], transB=1),
        *(extra or []),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, *PIXELS])],
            [helper.make_tensor_value_info(end, TensorProto.FLOAT, [batch, 5])],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )


def test_a_graph_becomes_layers_that_can_be_trained(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(graph().SerializeToString())
    suspect = load(path, mean=[0], std=[1])
    assert suspect.contract.input_size == tuple(PIXELS)
    assert suspect.contract.num_classes == 5
    convs = [m for m in suspect.module.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convs] == [4]
    suspect.module(torch.rand(3, *PIXELS)).sum().backward()
    assert convs[0].weight.grad is not None
    assert float(convs[0].weight.grad.abs().sum()) > 0


def test_it_agrees_with_onnx_runtime(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    path = tmp_path / "m.onnx"
    path.write_bytes(graph().SerializeToString())
    images = torch.rand(2, *PIXELS)
    expected = ort.InferenceSession(path).run(None, {"images": images.numpy()})[0]
    with torch.no_grad():
        got = load(path, mean=[0], std=[1]).module(images).numpy()
    assert np.abs(got - expected).max() < 1e-5  # one convolution and one product in float32


@pytest.mark.parametrize("batch", [1, 4])
def test_a_graph_for_one_batch_size_takes_any(tmp_path: Path, batch: int) -> None:
    ort = pytest.importorskip("onnxruntime")
    path = tmp_path / "m.onnx"
    path.write_bytes(graph(batch=batch).SerializeToString())
    images = torch.rand(12, *PIXELS)
    session = ort.InferenceSession(path)
    parts = [session.run(None, {"images": part.numpy()})[0] for part in images.split(batch)]
    module = load(path, mean=[0], std=[1]).module
    with torch.no_grad():
        assert np.abs(module(images).numpy() - np.concatenate(parts)).max() < 1e-5
        assert np.abs(module(images[:3]).numpy() - np.concatenate(parts)[:3]).max() < 1e-5


def mixing(batch: int | str) -> onnx.ModelProto:
    """Every logit times its mean over the images of the batch."""
    mixed = helper.make_node("ReduceMean", ["logits"], ["mean"], axes=[0], keepdims=1)
    less = helper.make_node("Mul", ["logits", "mean"], ["less"])
    model = graph([mixed, less], end="less", batch=batch)
    model.opset_import[0].version = 17  # axes as an attribute
    return model


def test_a_graph_that_mixes_its_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(mixing("n").SerializeToString())
    with pytest.raises(BadModel, match="otherwise among others than alone"):
        load(path, mean=[0], std=[1])


def test_a_graph_for_one_image_that_cannot_be_freed_gets_one_at_a_time(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    path = tmp_path / "m.onnx"
    path.write_bytes(mixing(1).SerializeToString())
    images = torch.rand(3, *PIXELS)
    session = ort.InferenceSession(path)
    expected = np.concatenate([session.run(None, {"images": image.numpy()})[0] for image in images.split(1)])
    module = load(path, mean=[0], std=[1]).module
    assert np.abs(module(images).detach().numpy() - expected).max() < 1e-5
    module(images).sum().backward()
    (conv,) = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert conv.weight.grad is not None
    assert float(conv.weight.grad.abs().sum()) > 0


def test_weights_that_are_shared_by_identity_are_found(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = graph()
    model.graph.node[0].input[1] = "same"
    model.graph.node.insert(0, helper.make_node("Identity", ["conv.weight"], ["same"]))
    path.write_bytes(model.SerializeToString())
    (conv,) = [m for m in load(path, mean=[0], std=[1]).module.modules() if isinstance(m, nn.Conv2d)]
    assert torch.equal(conv.weight, torch.from_numpy(numpy_helper.to_array(model.graph.initializer[0]).copy()))


def test_unknown_operators_are_all_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["logits"], ["x"]), helper.make_node("NonZero", ["x"], ["y"])]
    (tmp_path / "m.onnx").write_bytes(graph(nodes, end="y").SerializeToString())
    with pytest.raises(BadModel, match=r"Det \(1\), NonZero \(1\)"):
        load(tmp_path / "m.onnx", mean=[0], std=[1])


def test_tensors_outside_the_file_are_refused(tmp_path: Path) -> None:
    model = graph()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeFile, match="etc/passwd") as caught:
        inspect(tmp_path / "m.onnx")
    assert caught.value.findings[0].rule == "onnx-external"


def test_foreign_operators_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Run", ["logits"], ["y"], domain="com.evil")]
    (tmp_path / "m.onnx").write_bytes(graph(nodes, end="y").SerializeToString())
    with pytest.raises(UnsafeFile, match=r"com\.evil:Run"):
        inspect(tmp_path / "m.onnx")


def test_a_tensor_that_brings_no_data_is_refused(tmp_path: Path) -> None:
    model = graph()
    model.graph.initializer[0].dims[0] = 2**40
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeFile, match="claims"):
        inspect(tmp_path / "m.onnx")


def test_an_attribute_without_a_value_is_refused(tmp_path: Path) -> None:
    model = graph()
    attribute = next(a for node in model.graph.node for a in node.attribute)
    for field in ("i", "ints", "f", "s"):
        attribute.ClearField(field)
    attribute.type = onnx.AttributeProto.UNDEFINED
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadModel, match="without a value"):
        load(tmp_path / "m.onnx", mean=[0], std=[1])


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(graph().SerializeToString()[:-40])
    with pytest.raises(BadModel, match="damaged"):
        inspect(tmp_path / "m.onnx")


def test_what_is_gathered_and_expanded_is_what_numpy_says() -> None:
    x = torch.rand(2, 4, 3)
    for axis in (0, 1, -1):
        for index in ([1], [1, 0], [[0, 1], [1, 0]]):
            found = OPERATORS["Gather"]({"axis": axis}, x, index)
            assert np.array_equal(found.numpy(), np.take(x.numpy(), index, axis)), (axis, index)
    assert np.array_equal(OPERATORS["Gather"]({"axis": 1}, x, 2).numpy(), np.take(x.numpy(), 2, 1))
    for shape in ([5, 2, 4, 3], [1, 1, 1]):
        expected = np.broadcast_to(x.numpy(), np.broadcast_shapes(x.shape, tuple(shape)))
        assert np.array_equal(OPERATORS["Expand"]({}, x, shape).numpy(), expected)


def both(operator: str, inputs: list[Any], **attributes: Any) -> tuple[Any, np.ndarray[Any, Any]]:
    """What one operator gives here, and in ONNX Runtime, on inputs that are arrays."""
    ort = pytest.importorskip("onnxruntime")
    names = [f"x{i}" for i in range(len(inputs))]
    node = helper.make_node(operator, names, ["y"], **attributes)
    held = [numpy_helper.from_array(array, name) for name, array in zip(names, inputs, strict=True)]
    made = helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info("y")], held)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    expected = ort.InferenceSession(model.SerializeToString()).run(None, {})[0]
    whole = [array.tolist() if array.dtype.kind == "i" else torch.from_numpy(array) for array in inputs]
    return OPERATORS[operator](
        _plain({a.name: helper.get_attribute_value(a) for a in node.attribute}), *whole
    ), expected


FLOATS = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"),
    [
        ("Sin", [FLOATS], {}),
        ("Cos", [FLOATS], {}),
        ("Not", [FLOATS > 0], {}),
        ("CumSum", [FLOATS, np.array(1, np.int32)], {}),
        ("CumSum", [FLOATS, np.array(-1, np.int64)], {"exclusive": 1}),
        ("CumSum", [FLOATS, np.array([2], np.int64)], {"reverse": 1}),
        ("CumSum", [FLOATS, np.array(0, np.int32)], {"reverse": 1, "exclusive": 1}),
        ("ConstantOfShape", [np.array([2, 3], np.int64)], {}),
        ("ConstantOfShape", [np.array([2, 3], np.int64)], {"value": numpy_helper.from_array(np.array([2.5], "f"))}),
        ("ConstantOfShape", [np.array([3], np.int64)], {"value": numpy_helper.from_array(np.array([7], "i8"))}),
        ("ConstantOfShape", [np.array([3, 1], np.int64)], {"value": numpy_helper.from_array(np.array([True]))}),
        ("Cast", [FLOATS > 0], {"to": TensorProto.FLOAT}),
        ("Cast", [np.round(FLOATS)], {"to": TensorProto.BOOL}),
    ],
)
def test_an_operator_is_what_onnx_runtime_says(operator: str, inputs: list[Any], attributes: dict[str, Any]) -> None:
    found, expected = both(operator, inputs, **attributes)
    assert np.asarray(found).dtype.kind == expected.dtype.kind
    assert np.shape(found) == expected.shape
    assert np.allclose(found, expected, atol=1e-6)  # float32 sums of at most four numbers of size 1


def test_numbers_that_stand_for_shapes_can_be_negated() -> None:
    assert OPERATORS["Not"]({}, [True, False]) == [False, True]
    assert OPERATORS["Not"]({}, 0) is True


@pytest.mark.parametrize("batch", ["n", 1])
def test_a_constant_as_large_as_the_machine_is_refused(tmp_path: Path, batch: int | str) -> None:
    nodes = [
        helper.make_node("Constant", [], ["size"], value=numpy_helper.from_array(np.array([2**40], np.int64))),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceMean", ["zeros"], ["zero"], keepdims=1),
        helper.make_node("Add", ["logits", "zero"], ["y"]),
    ]
    (tmp_path / "m.onnx").write_bytes(graph(nodes, end="y", batch=batch).SerializeToString())
    with pytest.raises(BadModel, match=r"a constant of the shape \[1099511627776\]"):
        load(tmp_path / "m.onnx", mean=[0], std=[1])


def test_an_attribute_that_is_a_damaged_tensor_is_refused(tmp_path: Path) -> None:
    for operator, attribute in (("ConstantOfShape", "value"), ("Constant", "value"), ("Relu", "alpha")):
        torn = TensorProto(data_type=TensorProto.FLOAT, dims=[5], raw_data=b"abc")
        node = helper.make_node(operator, ["logits"] if operator != "Constant" else [], ["y"], **{attribute: torn})
        (tmp_path / "m.onnx").write_bytes(graph([node], end="y").SerializeToString())
        with pytest.raises(BadModel, match="is damaged"):
            load(tmp_path / "m.onnx", mean=[0], std=[1])


def test_the_bounds_of_a_clip_are_numbers_that_an_exporter_can_follow(tmp_path: Path) -> None:
    bounds = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, np.float32)))
        for name, value in (("low", 0.0), ("high", 6.0))
    ]
    nodes = [*bounds, helper.make_node("Clip", ["logits", "low", "high"], ["y"])]
    (tmp_path / "m.onnx").write_bytes(graph(nodes, end="y").SerializeToString())
    module = load(tmp_path / "m.onnx", mean=[0], std=[1]).module
    program = torch.export.export(module, (torch.rand(2, *PIXELS),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    images = torch.rand(5, *PIXELS)
    assert torch.equal(program.module()(images), module(images))


class OneAtATime(nn.Module):
    """What torch's exporter may make of a network for one image, with no trace of the batch in its graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten()[None, :4]


def test_a_graph_that_answers_one_image_only_is_told_as_such() -> None:
    with pytest.raises(BadModel, match="exported for one image at a time") as caught:
        opening._try(OneAtATime(), (3, 8, 8), Path("m.onnx"))
    assert "batch" in caught.value.hint
