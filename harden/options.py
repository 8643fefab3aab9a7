"""The flags, once: what each is called, what it says in --help, which panel it stands in, and which go together."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer


class Format(StrEnum):
    """What a command prints on stdout."""

    text = "text"
    json = "json"
    markdown = "markdown"
    sarif = "sarif"
    junit = "junit"


def _in(panel: str) -> Any:
    def option(*names: str, help: str, **more: Any) -> Any:
        return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)

    return option


_model = _in("The model")
_data = _in("Images")
_trigger = _in("A trigger that you know")
_method = _in("The work")
_result = _in("The result")

Model = Annotated[Path | None, typer.Argument(help="The model file (or `model` in the plan).", show_default=False)]
Arch = Annotated[
    str | None,
    _model("--arch", help="torchvision:NAME, timm:NAME, or FILE.py:FUNCTION (code: only name what you trust)."),
]
ContractFile = Annotated[Path | None, _model("--contract", help="Its model.toml; default: the one beside it.")]
Mean = Annotated[str | None, _model("--mean", help="Per channel, of pixels in [0, 1]: 0.485,0.456,0.406.")]
Std = Annotated[str | None, _model("--std", help="Per channel: 0.229,0.224,0.225.")]
InputSize = Annotated[str | None, _model("--input-size", help="Channels, height, width: 3,224,224.")]
MaxInput = Annotated[
    str | None, _model("--max-input", help="Largest file to open, and to unpack: 500MB, 8GB; default: 4 GiB.")
]

TrustCode = Annotated[
    bool | None, _model("--trust-code", help="Let the file run code of its own. Only for files that you made yourself.")
]

CleanDir = Annotated[Path | None, _data("--clean-dir", help="Clean images, one folder per class.")]
VerifyDir = Annotated[
    Path | None, _data("--verify-dir", help="Other images to report on; default: a part of --clean-dir is kept for it.")
]
DataDir = Annotated[Path | None, _data("--data-dir", help="Images to measure on, one folder per class.")]

TriggerSpec = Annotated[str | None, _trigger("--trigger", help="PNG of the input's size, or FILE.py:FUNCTION.")]
TriggerDir = Annotated[
    Path | None, _trigger("--trigger-dir", help="Triggered twins of the images, with the same relative names.")
]
Mask = Annotated[Path | None, _trigger("--mask", help="PNG, white where the picture of --trigger goes.")]
Blend = Annotated[float | None, _trigger("--blend", help="1 covers the image, 0.2 shines through.")]
Target = Annotated[str | None, _trigger("--target", help="The class that it makes the model say; or any.")]
AccuracyOnly = Annotated[
    bool, _trigger("--accuracy-only", help="Ask for no trigger; then nothing is said about backdoors.")
]
HideTrigger = Annotated[
    bool | None, _trigger("--hide-trigger", help="Only measure with it: the method does not get to know it.")
]

MethodName = Annotated[str | None, _method("--method", help="See `harden methods`; default: auto.")]
Recover = Annotated[
    str | None, _method("--recover", help="Look for triggers as this method does; default: its own way.")
]
PlanFile = Annotated[Path | None, _method("--plan", help="TOML with any of these settings; flags beat it.")]
Seed = Annotated[int | None, _method("--seed", help="The same seed gives the same result; default: 0.")]
Device = Annotated[str | None, _method("--device", help="cpu, cuda or auto (default).")]
TimeBudget = Annotated[str | None, _method("--time-budget", help="Such as 90s, 15m, 2h: then the best so far counts.")]
Prune = Annotated[
    bool | None, _method("--prune", help="Also cut out what is dead after the repair, or what that found guilty.")
]
Align = Annotated[int | None, _method("--align", help="Cut layers down to multiples of so many filters; default: 8.")]
Resume = Annotated[
    bool, _method("--resume", help="Go on after the last finished stage of the same run, if it was cut short.")
]
DryRun = Annotated[bool, _method("--dry-run", help="Print what would be done, and do nothing.")]

PolicyFile = Annotated[str | None, _result("--policy", help="policy.toml, or lenient, default, strict: what may ship.")]
Out = Annotated[Path | None, _result("--out", help="A new folder; default: harden-runs/<model>-<time>.")]
TargetSpeedup = Annotated[
    float | None, _method("--target-speedup", help="Cut on until the file is so many times as fast: 1.5.")
]
MaxSize = Annotated[str | None, _method("--max-size", help="Cut on until the file is as small: 500kB, 2MB.")]
MaxDrop = Annotated[float | None, _method("--max-drop", help="Points of accuracy that this may cost; default: 1.")]

Kinds = Annotated[
    str | None, _result("--kinds", help="Files besides fp32: fp16 (GPUs), int8 (CPUs), pt2; such as fp32,int8.")
]
MaxInt8Drop = Annotated[
    float | None, _result("--max-int8-drop", help="Points of accuracy that int8 may lose against fp32; default: 1.")
]
Provider = Annotated[
    str | None, _result("--provider", help="What ONNX Runtime runs the files on; default: cpu. See `harden doctor`.")
]
SignKey = Annotated[
    Path | None, _result("--sign-key", help="Private key (PEM, elliptic curve): signs the folder of what may ship.")
]
PublicKey = Annotated[Path | None, _result("--public-key", help="The run's signature must be of this key.")]
Opset = Annotated[int | None, _result("--opset", help="Of the ONNX file; default: 20.")]
EmbedPreprocessing = Annotated[
    bool | None, _result("--embed-preprocessing", help="The ONNX file takes images as bytes, not normalised.")
]
Latency = Annotated[bool | None, _result("--latency/--no-latency", help="Whether to time the file; default: yes.")]
OutputFormat = Annotated[Format, _result("--format", help="What stdout gets: text, json, markdown, sarif, junit.")]
Quiet = Annotated[bool, _result("-q", "--quiet", help="No progress; only the verdict.")]


class TheContract:
    """What goes into the network and what comes out."""

    arch: Arch = None
    contract: ContractFile = None
    mean: Mean = None
    std: Std = None
    input_size: InputSize = None
    max_input: MaxInput = None


class TheModel(TheContract):
    """What it takes to open a model file."""

    trust_code: TrustCode = None


class KnownTrigger:
    """A trigger in any of its forms."""

    trigger: TriggerSpec = None
    trigger_dir: TriggerDir = None
    mask: Mask = None
    blend: Blend = None
    target: Target = None


class Work:
    """How a method is chosen and bounded."""

    method: MethodName = None
    recover: Recover = None
    plan: PlanFile = None
    seed: Seed = None
    device: Device = None
    time_budget: TimeBudget = None


class Shipping:
    """What the files are like that come out."""

    out: Out = None
    kinds: Kinds = None
    max_int8_drop: MaxInt8Drop = None
    provider: Provider = None
    opset: Opset = None
    embed_preprocessing: EmbedPreprocessing = None
    latency: Latency = None


class Printing:
    """What the terminal gets."""

    format: OutputFormat = Format.text
    quiet: Quiet = False


def takes(*groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the flags of these groups beside its own; it finds the values of all in its context."""

    def widened(command: Callable[..., None]) -> Callable[..., None]:
        own = signature(command, eval_str=True).parameters
        context, argument, *rest = own.values()  # those of the model come first in --help
        shared = [
            Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=getattr(group, name), annotation=hint)
            for group in groups
            for name, hint in get_type_hints(group, include_extras=True).items()
        ]

        @wraps(command)
        def run(**values: Any) -> None:
            command(**{name: values[name] for name in own})

        run.__signature__ = Signature([context, argument, *shared, *rest])  # type: ignore[attr-defined]  # what typer reads
        return run

    return widened
