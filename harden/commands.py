"""What each verb does, once its flags are read: calls the library, prints the result, says the exit code.

stdout carries the result and nothing else: whatever a library prints while it works goes to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harden.asking import ask
from harden.errors import INCONCLUSIVE, MAY_SHIP, POLICY_SAYS_NO, UNSAFE, BadOutput, UsageError
from harden.options import Format
from harden.plan import Plan, plan_text, seconds, settle
from harden.policy import READY, policy_table, read_policy
from harden.spelling import nearest
from harden.types import Progress

if TYPE_CHECKING:
    from harden.outcome import Report

CODES = {"pass": MAY_SHIP, "fail": POLICY_SAYS_NO, "inconclusive": INCONCLUSIVE}
NOT_SETTINGS = ("plan", "format", "quiet", "dry_run", "resume", "data_dir", "accuracy_only", "public_key")


def clean(flags: Mapping[str, Any]) -> int:
    plan = plan_of(flags)
    return _report(plan, flags, "clean")


def scan(flags: Mapping[str, Any]) -> int:
    return _report(plan_of(flags), flags, "scan")


def demo(flags: Mapping[str, Any]) -> int:
    """`harden clean` on the sample: what it finds, it finds without the trigger, which only measures."""
    import harden

    samples = Path(harden.__file__).parent.parent / "samples"
    if not (samples / "models" / "backdoored.pt").is_file():
        raise UsageError(
            "the sample is not part of the installed package.",
            hint="Run `harden demo`, or `make demo`, in a checkout of the repository.",
        )
    return _report(plan_of({**backdoored_sample(samples), "hide_trigger": True, **flags}), flags, "clean")


def backdoored_sample(samples: Path) -> dict[str, Any]:
    """The bundled model with its images and its true trigger, as settings of a plan."""
    return {
        "model": samples / "models" / "backdoored.pt",
        "arch": f"{samples / 'network.py'}:sign_net",
        "clean_dir": samples / "clean",
        "verify_dir": samples / "verify",
        "trigger": str(samples / "trigger.png"),
        "mask": samples / "mask.png",
        "target": "speed_70",
    }


def _report(plan: Plan, flags: Mapping[str, Any], verb: str) -> int:
    """Runs a verb that ends in a report, and prints it in the form that was asked for."""
    ask(plan, verb)
    if flags["dry_run"]:
        return dry_run(plan, verb)
    with working(flags["quiet"]) as progress:
        from harden import api  # torch and the rest: seconds, in which the first line should already be there

        out = api.out_folder(plan) if verb == "clean" else plan.out
        if verb == "clean" and out:
            report = api.clean_to(plan, out, progress, resume=flags.get("resume", False))
        else:
            report = api.scan_to(plan, out, progress)
    _print(report, flags["format"], out, quiet=flags["quiet"])
    return CODES[report.verdict.status]


def inspect(flags: Mapping[str, Any]) -> int:
    """Says what the file is; 4 if the other verbs would refuse to open it."""
    from harden import api
    from harden.loading.rules import is_unsafe
    from harden.reports.records import encode

    found = api.inspect_plan(plan_of(flags))
    if flags["format"] is Format.text:
        from harden.reports.console import show_inspection

        show_inspection(found, _console())
    else:
        _only(flags["format"], Format.json)
        _json(encode(found))
    return UNSAFE if any(is_unsafe(f) for f in found.findings) else MAY_SHIP


def verify(flags: Mapping[str, Any]) -> int:
    with working(flags["quiet"]) as progress:
        from harden import verification

        plan = plan_of(flags)
        plan = replace(plan, verify_dir=flags["data_dir"] or plan.verify_dir)
        found = verification.verify(
            plan, progress, accuracy_only=flags["accuracy_only"], public_key=flags["public_key"]
        )
    if flags["format"] is Format.text:
        from harden.reports.console import show_verification

        show_verification(found, _console())
    else:
        from harden.reports.records import encode

        _only(flags["format"], Format.json)
        _json(encode(found))
    return CODES[found.verdict.status]


def export(flags: Mapping[str, Any]) -> int:
    with working(flags["quiet"]) as progress:
        from harden import exporting

        found = exporting.export(plan_of(flags), progress)
    if flags["format"] is Format.text:
        for line in exporting.lines(found):
            print(line)
    else:
        from harden.reports.records import encode

        _only(flags["format"], Format.json)
        _json(encode(found))
    return MAY_SHIP


def gate(run: Path, policy: str | None, format: Format) -> int:
    from harden.judge import judge
    from harden.policy import policy_from
    from harden.reports.records import read_report

    report = read_report(run)
    own = report.settings.get("policy", {})
    chosen = policy_from(own, "the run's own policy") if policy is None else read_policy(policy)
    was, report = report.verdict.status, replace(report, verdict=judge(report, chosen))
    _print(report, format, run if run.is_dir() else None)
    if report.export is not None and run.is_dir():
        from harden.reports.words import stays

        # Moving them would leave a folder whose reports, signature and attestation speak of another one.
        for line in stays(was, report.verdict.status, run):
            print(line, file=sys.stdout if format is Format.text else sys.stderr)
    return CODES[report.verdict.status]


def bench(
    zoo: Path,
    out: Path,
    names: str,
    clean_per_class: str,
    seeds: str,
    models: str,
    jobs: int,
    device: str,
    time_budget: str | None,
    quiet: bool,
) -> int:
    budget = None if time_budget is None else seconds(time_budget, "--time-budget")
    with working(quiet) as progress:
        from harden.bench.runner import bench as run_bench
        from harden.bench.runner import summary
        from harden.bench.spec import check, separate
        from harden.registry import known

        table = known()
        wanted = separate(names, table)
        check(wanted, table)
        rows = run_bench(
            zoo,
            out,
            wanted,
            clean_per_class=_whole(clean_per_class, "--clean-per-class"),
            seeds=_whole(seeds, "--seeds"),
            models=[name.strip() for name in models.split(",")] if models else None,
            jobs=jobs,
            device=device,
            time_budget=budget,
            progress=progress,
        )
    print(summary(rows))
    return MAY_SHIP


def _whole(text: str, option: str) -> list[int]:
    """10,50 as numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} takes whole numbers such as 0,1,2, and {text!r} came") from None


def make(
    data: Path, out: Path, attack: str, target: int, size: int, rate: float, epochs: int, seed: int, quiet: bool
) -> int:
    with working(quiet) as progress:
        from harden.bench.make import make as make_canary

        canary = make_canary(
            data, out, attack, target=target, rate=rate, size=size, epochs=epochs, seed=seed, progress=progress
        )
    print(f"{canary.folder}: accuracy {canary.accuracy}, attack success {canary.attack_success}")
    return MAY_SHIP


def methods(format: Format) -> int:
    from harden.registry import known, settings_of

    found = [factory() for factory in known().values()]
    if format is not Format.text:
        _only(format, Format.json)
        about = ("name", "summary", "paper", "baseline")
        _json([{**{key: getattr(m, key) for key in about}, "settings": settings_of(m)} for m in found])
        return MAY_SHIP
    from harden.reports.console import grid, plain

    table = grid("method", "what it does", "published as")
    for m in sorted(found, key=lambda m: m.baseline):
        table.add_row(plain(m.name), plain(m.summary), plain(m.paper))
    console = _console()
    console.print(table)
    console.print("A method's settings stand in a plan: `harden methods --format json` lists them.", style="dim")
    return MAY_SHIP


def policy_init(name: str, out: Path) -> int:
    from harden.policyfile import commented

    if name not in READY:
        raise UsageError(
            f"there is no ready policy {name!r}.{nearest(name, READY)}", hint=f"Known: {', '.join(READY)}."
        )
    if out.exists():
        raise BadOutput(
            f"{out} exists already.", hint="Give another name with --out, or look at it: harden policy check."
        )
    out.write_text(commented(READY[name], name), encoding="utf-8")
    print(out)
    return MAY_SHIP


def policy_check(policy: str) -> int:
    from harden import toml

    print(toml.dumps(policy_table(read_policy(policy))), end="")
    return MAY_SHIP


def plan_show(plan: Path | None) -> int:
    print(plan_text(settle({}, plan)), end="")
    return MAY_SHIP


def dry_run(plan: Plan, verb: str) -> int:
    """The plan in force, and what it would work on; nothing is written."""
    from harden.estimate import estimate

    print(f"# harden {verb} would do this:\n{plan_text(plan)}")
    for line in estimate(plan, verb):
        print(f"# {line}")
    return MAY_SHIP


def plan_of(flags: Mapping[str, Any]) -> Plan:
    """The plan in force for these flags."""
    given = {key: value for key, value in flags.items() if key not in NOT_SETTINGS}
    return settle(given, flags.get("plan"))


@contextmanager
def working(quiet: bool) -> Iterator[Progress]:
    """Progress on stderr, and stdout kept clean of what libraries print."""
    from harden.reports.progress import progress

    with redirect_stdout(sys.stderr):
        yield progress(quiet)


def _print(report: Report, format: Format, folder: Path | None, quiet: bool = False) -> None:
    forms: dict[Format, Callable[[], str]] = {
        Format.json: lambda: _form("records").dumps(report),
        Format.markdown: lambda: _form("markdown").markdown(report),
        Format.sarif: lambda: _form("sarif").sarif_text(report),
        Format.junit: lambda: _form("junit").junit(report),
    }
    if format is not Format.text:
        sys.stdout.write(forms[format]())
    else:
        from harden.reports.console import show_report, show_verdict

        if quiet:
            show_verdict(report.verdict, _console())
        else:
            show_report(report, _console(), folder)


def _form(name: str) -> Any:
    from importlib import import_module

    return import_module(f"harden.reports.{name}")


def _only(format: Format, *known: Format) -> None:
    if format not in known:
        names = ", ".join(("text", *known))
        raise UsageError(f"this command has no --format {format}.", hint=f"It prints {names}.")


def _json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def _console() -> Any:
    from rich.console import Console

    # In a log or a pipe there is no width to fit into: a table cut off at 80 columns loses names.
    return Console() if sys.stdout.isatty() else Console(width=140)
