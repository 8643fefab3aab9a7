"""What is in samples/ci is well formed, names flags that exist, and does what it says, as far as a machine without
those services can tell.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer

from harden.cli import app
from harden.plan import settle

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parent.parent.parent
CI = ROOT / "samples" / "ci"
SCHEMAS = Path(__file__).parent / "schemas"
WORKFLOW, JOB, HOOKS = "github-actions.yml", "gitlab-ci.yml", "pre-commit-config.yaml"


def read(name: str) -> Any:
    return yaml.safe_load((CI / name).read_text(encoding="utf-8"))


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every call of harden in these files, with where it stands."""
    steps = [step.get("run", "") for step in read(WORKFLOW)["jobs"]["harden"]["steps"]]
    texts = [(WORKFLOW, "\n".join(steps)), (JOB, "\n".join(read(JOB)["harden"]["script"]))]
    texts += [
        (name, re.sub("(?m)^# +", "", (CI / name).read_text(encoding="utf-8"))) for name in ("Dockerfile", "plan.toml")
    ]
    for name, text in texts:
        for line in re.findall(r"(?:^| )harden ((?:clean|scan|inspect|gate) .*)$", text, flags=re.MULTILINE):
            yield name, shlex.split(line)


@pytest.mark.parametrize(("name", "schema"), [(WORKFLOW, "github-workflows"), (JOB, "gitlab-ci")])
def test_a_workflow_is_what_its_service_asks_for(name: str, schema: str) -> None:
    content = read(name)
    if True in content:  # YAML 1.1 reads the key `on` as a truth value, and so does this reader
        content["on"] = content.pop(True)
    rules = json.loads((SCHEMAS / f"{schema}.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(rules).validate(content)


def test_the_files_call_harden() -> None:
    assert {name for name, _ in commands()} == {WORKFLOW, JOB, "Dockerfile", "plan.toml"}


@pytest.mark.parametrize(("name", "arguments"), list(commands()))
def test_every_command_has_flags_that_exist(name: str, arguments: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    verb = group.commands[arguments[0]]
    assert verb.make_context(arguments[0], arguments[1:]), name


def test_the_plan_finds_what_it_names() -> None:
    plan = settle({}, CI / "plan.toml")
    for path in (plan.model, plan.clean_dir, plan.verify_dir, Path(str(plan.arch).partition(":")[0])):
        assert path is not None
        assert path.exists()
    assert plan.policy_name.endswith("default.toml")


def test_what_a_job_keeps_is_what_a_run_writes() -> None:
    from harden.reports.folder import PLAN
    from harden.reports.records import REPORT

    kept = set(re.findall(r"run/([a-z.]+)", json.dumps([read(WORKFLOW), read(JOB)], default=str)))
    assert kept <= {REPORT, PLAN, "report.html", "report.md", "results.sarif", "junit.xml"}
    assert {"report.md", "results.sarif", "junit.xml"} <= kept


def test_an_image_holds_only_what_the_installation_needs() -> None:
    lines = (CI / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines
    assert all((ROOT / name).exists() for name in kept)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["setuptools"]["package-dir"].values()) <= set(kept)
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= set(kept)
    extras = re.findall(r"/opt/harden\[(\w+)\]", (CI / "Dockerfile").read_text(encoding="utf-8"))
    assert set(extras) <= set(project["project"]["optional-dependencies"])


@pytest.fixture
def hook(tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """The hook's entry as pre-commit would call it, with a `harden` on the path."""
    (found,) = read(HOOKS)["repos"]
    (entry,) = found["hooks"]
    assert found["repo"] == "local"
    assert set(entry) <= {"id", "name", "entry", "language", "files"}
    assert re.search(entry["files"], "models/x.pt")
    assert not re.search(entry["files"], "notes.txt")
    shim = tmp_path / "bin" / "harden"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m harden "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    return shlex.split(entry["entry"]), {
        **os.environ,
        "PATH": f"{shim.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }


def test_the_hook_lets_a_good_file_in_and_stops_a_bad_one(
    hook: tuple[list[str], dict[str, str]], tmp_path: Path
) -> None:
    entry, environment = hook
    good, bad = ROOT / "samples" / "models" / "clean.pt", tmp_path / "evil.pt"
    bad.write_bytes(b"cos\nsystem\n(S'echo harm'\ntR.")
    for files, code in (([good], 0), ([good, bad], 4)):
        done = subprocess.run([*entry, *map(str, files)], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
