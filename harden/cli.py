"""The verbs. Nothing heavy is imported here: `harden --help` answers at once, and a command imports what it needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harden import __version__, boundary
from harden import options as o

app = typer.Typer(
    help="Finds backdoors in image classifiers, removes the filters that carry them, and exports what may ship.",
    epilog="Exit codes: 0 may ship, 1 the policy says no, 2 usage, 3 trouble, 4 unsafe file, 5 inconclusive, 70 a bug.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
policy_app = typer.Typer(help="What may ship: write a policy to start from, or check one.", no_args_is_help=True)
plan_app = typer.Typer(help="What a run would do.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")
app.add_typer(plan_app, name="plan")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"harden {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Shared by all commands."""


@app.command()
@o.takes(o.TheModel, o.KnownTrigger, o.Work, o.Shipping, o.Printing)
def clean(
    context: typer.Context,
    model: o.Model = None,
    clean_dir: o.CleanDir = None,
    verify_dir: o.VerifyDir = None,
    hide_trigger: o.HideTrigger = None,
    prune: o.Prune = None,
    align: o.Align = None,
    target_speedup: o.TargetSpeedup = None,
    max_size: o.MaxSize = None,
    max_drop: o.MaxDrop = None,
    policy: o.PolicyFile = None,
    resume: o.Resume = False,
    sign_key: o.SignKey = None,
    dry_run: o.DryRun = False,
) -> None:
    """The whole job: scan, cut, repair, measure, export, judge. Leaves a run folder."""
    from harden import commands

    raise typer.Exit(commands.clean(context.params))


@app.command()
@o.takes(o.TheModel, o.KnownTrigger, o.Work, o.Printing)
def scan(
    context: typer.Context,
    model: o.Model = None,
    clean_dir: o.CleanDir = None,
    verify_dir: o.VerifyDir = None,
    hide_trigger: o.HideTrigger = None,
    policy: o.PolicyFile = None,
    out: o.Out = None,
    dry_run: o.DryRun = False,
) -> None:
    """Is there a backdoor? Evidence and a verdict; nothing is changed, and no folder is written without --out."""
    from harden import commands

    raise typer.Exit(commands.scan(context.params))


@app.command()
@o.takes(o.TheContract)
def inspect(
    context: typer.Context,
    model: o.Model = None,
    clean_dir: o.CleanDir = None,
    format: o.OutputFormat = o.Format.text,
) -> None:
    """What the file is, told without running it: format, findings, layers, contract."""
    from harden import commands

    raise typer.Exit(commands.inspect(context.params))


@app.command()
@o.takes(o.TheModel, o.KnownTrigger, o.Printing)
def verify(
    context: typer.Context,
    model: Annotated[
        Path | None, typer.Argument(help="A model file, an .onnx file, or the folder of a run.", show_default=False)
    ] = None,
    data_dir: o.DataDir = None,
    accuracy_only: o.AccuracyOnly = False,
    device: o.Device = None,
    policy: o.PolicyFile = None,
    provider: o.Provider = None,
    public_key: o.PublicKey = None,
) -> None:
    """Accuracy and attack success of any artefact, .onnx through ONNX Runtime.

    Without a trigger it is inconclusive (5), since nothing was seen of a backdoor; --accuracy-only asks for no more.
    """
    from harden import commands

    raise typer.Exit(commands.verify(context.params))


@app.command()
@o.takes(o.TheModel, o.Shipping, o.Printing)
def export(
    context: typer.Context,
    model: Annotated[
        Path | None, typer.Argument(help="A model file, or the folder of a run.", show_default=False)
    ] = None,
    clean_dir: o.CleanDir = None,
    seed: o.Seed = None,
) -> None:
    """The files of a model as it is (ONNX in fp32, fp16, int8; .pt2), with parity and latency. Nothing is judged."""
    from harden import commands

    raise typer.Exit(commands.export(context.params))


@app.command()
def gate(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run, or its report.json.")],
    policy: o.PolicyFile = None,
    format: o.OutputFormat = o.Format.text,
) -> None:
    """Judge a finished run by another policy, or show it in another form; nothing is measured again."""
    from harden import commands

    raise typer.Exit(commands.gate(run, policy, format))


class _BenchGroup(TyperGroup):
    """`harden bench ZOO` and `harden bench make DATA`: what is no command is the zoo of the first one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


bench_app = typer.Typer(
    cls=_BenchGroup,
    help="Methods x models, for people who compare defences: harden bench ZOO.toml --methods a,b --out DIR",
    no_args_is_help=True,
)
app.add_typer(bench_app, name="bench")


@bench_app.command("run")
def bench(
    zoo: Annotated[Path, typer.Argument(help="A zoo.toml: models, their images, their true triggers.")],
    out: Annotated[Path, typer.Option("--out", help="Results are kept here; a bench that was stopped goes on.")],
    methods: Annotated[
        str, typer.Option("--methods", help="Such as auto,ft:epochs=20,grad-prune:given,grad-prune:recover=auto.")
    ],
    models: Annotated[str, typer.Option("--models", help="Only these, a,b; default: all of the zoo.")] = "",
    clean_per_class: Annotated[str, typer.Option("--clean-per-class", help="Numbers of images.")] = "10,50",
    seeds: Annotated[str, typer.Option("--seeds", help="One run each.")] = "0,1,2",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes at a time.")] = 1,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    time_budget: o.TimeBudget = None,
    quiet: o.Quiet = False,
) -> None:
    """Run every method on every model (the word `run` may be left out)."""
    from harden import commands

    raise typer.Exit(
        commands.bench(zoo, out, methods, clean_per_class, seeds, models, jobs, device, time_budget, quiet)
    )


@bench_app.command()
def make(
    data: Annotated[Path, typer.Argument(help="Images: one folder per class.")],
    out: Annotated[Path, typer.Option("--out", help="A folder that is not there yet.")],
    attack: Annotated[str, typer.Option("--attack", help="badnets, blended, warping, all-to-all ...")] = "badnets",
    target: Annotated[int, typer.Option("--target", min=0, help="The class it makes the model say, from 0.")] = 0,
    size: Annotated[int, typer.Option("--size", min=8, help="Height and width of the network's input.")] = 32,
    rate: Annotated[float, typer.Option("--rate", help="Share of the images that are poisoned.")] = 0.1,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of training.")] = 30,
    seed: Annotated[int, typer.Option("--seed", help="Of the split, the poisoning and the training.")] = 0,
    quiet: o.Quiet = False,
) -> None:
    """Train a small model with a known backdoor on your own classes, to test with."""
    from harden import commands

    raise typer.Exit(commands.make(data, out, attack, target, size, rate, epochs, seed, quiet))


@app.command()
def methods(format: o.OutputFormat = o.Format.text) -> None:
    """What there is: every method, its source and its settings."""
    from harden import commands

    raise typer.Exit(commands.methods(format))


@app.command()
def doctor(format: o.OutputFormat = o.Format.text) -> None:
    """What this machine can do, and what is missing."""
    from harden import doctor

    raise typer.Exit(doctor.doctor(format))


@app.command()
@o.takes(o.Printing)
def demo(
    context: typer.Context,
    method: o.MethodName = None,
    seed: o.Seed = None,
    device: o.Device = None,
    out: o.Out = None,
    dry_run: o.DryRun = False,
) -> None:
    """The bundled backdoored model, cleaned with clean images only; its trigger only measures. A few minutes."""
    from harden import commands

    raise typer.Exit(commands.demo(context.params))


@policy_app.command("init")
def policy_init(
    name: Annotated[str, typer.Argument(help="lenient, default or strict.")] = "default",
    out: Annotated[Path, typer.Option("--out", help="Where to write it.")] = Path("policy.toml"),
) -> None:
    """Write one of the ready policies, each bound with what it means."""
    from harden import commands

    raise typer.Exit(commands.policy_init(name, out))


@policy_app.command("check")
def policy_check(policy: Annotated[str, typer.Argument(help="policy.toml, or lenient, default, strict.")]) -> None:
    """Check that a policy is well formed, and print every bound that is in force."""
    from harden import commands

    raise typer.Exit(commands.policy_check(policy))


@plan_app.command("show")
def plan_show(
    plan: Annotated[Path | None, typer.Argument(help="A plan file; without one, the defaults.")] = None,
) -> None:
    """Print every setting that is in force, and where it comes from."""
    from harden import commands

    raise typer.Exit(commands.plan_show(plan))


def main() -> None:
    """The console script."""
    sys.exit(boundary.run(app))
