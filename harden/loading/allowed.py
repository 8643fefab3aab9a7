"""The names that a pickle may use, and what each of them means here. Nothing in this list is ever called.

A checkpoint is read by an interpreter of our own (opcodes.py) that turns these names into plain values or inert
records. So a name may stand here if it is data for a reader who executes nothing; for whole modules, only classes
below MODULES are ever made, without calling their constructors.
"""

from __future__ import annotations

DTYPES = {  # storage class -> dtype and bytes per element
    "FloatStorage": ("float32", 4),
    "DoubleStorage": ("float64", 8),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
    "UntypedStorage": ("uint8", 1),
}
ITEM_SIZE = dict(DTYPES.values()) | {
    "uint16": 2, "uint32": 4, "uint64": 8, "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip
STORAGES = {f"torch.{name}": name for name in DTYPES} | {
    f"torch.storage.{name}": name for name in ("UntypedStorage",)
} | {f"torch.cuda.{name}": name for name in DTYPES}  # fmt: skip

DTYPE_GLOBALS = {f"torch.{dtype}": dtype for dtype in ITEM_SIZE} | {
    "torch.half": "float16", "torch.float": "float32", "torch.double": "float64", "torch.long": "int64",
}  # fmt: skip

MAPPINGS = {
    "collections.OrderedDict",
    "collections.Counter",
    "collections.defaultdict",
    "builtins.dict",
    "__builtin__.dict",
    "torch.nn.modules.container.ParameterDict",
}
SEQUENCES = {"builtins.list", "builtins.tuple", "__builtin__.list", "__builtin__.tuple", "torch.Size"}
SETS = {"builtins.set", "builtins.frozenset", "__builtin__.set", "__builtin__.frozenset"}

TENSORS = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._tensor._rebuild_from_type_v2",
}

RECORDS = {  # what training scripts leave beside the weights; kept as names and values, never made
    "argparse.Namespace",
    "types.SimpleNamespace",
    "builtins.complex",
    "__builtin__.complex",
    "builtins.slice",
    "builtins.range",
    "builtins.bytearray",
    "_codecs.encode",
    "collections.deque",
    "datetime.datetime",
    "datetime.date",
    "datetime.time",
    "datetime.timedelta",
    "decimal.Decimal",
    "fractions.Fraction",
    "uuid.UUID",
    "pathlib.Path",
    "pathlib.PurePath",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "pathlib.PureWindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "torch.device",
    "torch.serialization._get_layout",
    "torch.torch_version.TorchVersion",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.StringNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.BooleanNode",
    "typing.Any",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "yacs.config.CfgNode",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
} | {f"numpy.dtypes.{kind}DType" for kind in (
    "Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float16", "Float32", "Float64",
)}  # fmt: skip

PLAIN_TYPES = {f"{home}.{name}" for home in ("builtins", "__builtin__")
               for name in ("int", "float", "str", "bool", "bytes", "object", "unicode", "long")}  # fmt: skip
"""Named as values (the factory of a defaultdict, say); calling one is refused."""

MODULES = ("torch.nn.modules.", "torchvision.models.", "torchvision.ops.", "timm.models.", "timm.layers.")
"""Homes of the layers that a whole pickled module may be made of."""

PARTS_OF_MODULES = {  # what such modules hold besides layers
    "functools.partial",
    "torch.nn.functional.relu",
    "torch.nn.functional.relu_",
    "torch.nn.functional.relu6",
    "torch.nn.functional.silu",
    "torch.nn.functional.gelu",
    "torch.nn.functional.softmax",
    "torch.nn.functional.log_softmax",
    "torch.nn.functional.sigmoid",
    "torch.nn.functional.leaky_relu",
    "torch.nn.functional.elu",
    "torch.nn.functional.hardswish",
    "torch.nn.functional.max_pool2d",
    "torch.nn.functional.avg_pool2d",
    "torch.nn.functional.adaptive_avg_pool2d",
    "torch._C._nn.gelu",
    "torch._C._nn.silu",
    "torch.nn.parameter.Parameter",
    "timm.layers.format.Format",
    "torch.nn.parameter.UninitializedParameter",
}


def is_layer(name: str) -> bool:
    """Whether a name may be a layer of a whole module; that it really is one is checked where it is made."""
    home, _, last = name.rpartition(".")
    return f"{home}.".startswith(MODULES) and last.isidentifier() and all(p.isidentifier() for p in home.split("."))


def is_script_class(name: str) -> bool:
    """Classes of a TorchScript program: they exist only inside its archive."""
    return name.startswith("__torch__.")


WRAPPERS = {
    "torch.nn.parallel.data_parallel.DataParallel",
    "torch.nn.parallel.distributed.DistributedDataParallel",
    "torch.optim.swa_utils.AveragedModel",
}
"""Modules around the module, which are taken off."""

CREATORS = {"copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__"}
SCRIPT_HELPERS = {
    f"torch.jit._pickle.{name}"
    for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
}
NAMES = (
    MAPPINGS | SEQUENCES | SETS | TENSORS | RECORDS | PLAIN_TYPES | PARTS_OF_MODULES | CREATORS | WRAPPERS
    | set(STORAGES) | set(DTYPE_GLOBALS) | {"torch.Tensor"}
)  # fmt: skip
