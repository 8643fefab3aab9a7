"""What an installation holds."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_in(folder: str, name: str) -> set[str]:
    """Import names of every folder that holds Python files."""
    folders = {path.parent for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts}
    return {".".join([name, *path.relative_to(ROOT / folder).parts]) for path in folders}


def test_every_package_is_installed() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    assert listed == packages_in("harden", "harden") | packages_in("export", "harden_export")


def test_every_package_can_be_imported_by_its_name() -> None:
    for folder in ("harden", "export"):
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"


def test_the_export_folder_is_imported_as_harden_export() -> None:
    found = importlib.util.find_spec("harden_export")
    assert found is not None
    assert found.origin is not None
    assert Path(found.origin).resolve().parent == ROOT / "export"


def test_types_are_announced() -> None:
    assert (ROOT / "harden" / "py.typed").is_file()
    assert (ROOT / "export" / "py.typed").is_file()


def test_every_dependency_is_pinned() -> None:
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    extras = PROJECT["project"]["optional-dependencies"].values()
    asked = [*PROJECT["project"]["dependencies"], *(need for extra in extras for need in extra)]
    names = {re.split(r"[<>=\[; ]", need)[0].lower() for need in asked} - {"harden"}
    assert names <= pinned, f"not in constraints.txt: {sorted(names - pinned)}"


def test_every_file_that_is_not_python_is_installed_too() -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for folder, name in (("harden", "harden"), ("export", "harden_export")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc"):
                continue
            package = ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
            patterns = [*data["*"], *data.get(package, [])]
            assert any(path.match(pattern) for pattern in patterns), f"{path} is in no package-data"
