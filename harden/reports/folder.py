"""Every form of the report, into the run folder."""

from __future__ import annotations

from pathlib import Path

from harden.outcome import Report
from harden.plan import Plan, plan_text
from harden.reports import records
from harden.reports.html import html
from harden.reports.junit import junit
from harden.reports.markdown import markdown
from harden.reports.sarif import sarif_text

PLAN = "plan.toml"


def write_reports(report: Report, plan: Plan, folder: Path, final: Path) -> None:
    """Writes them all; `final` is where the folder will be, from which the plan's paths are seen."""
    settings = report.settings.get("method", {})
    parts = {key: value for key, value in settings.items() if key != "name"}
    texts = {
        records.REPORT: records.dumps(report),
        "report.html": html(report, folder),
        "report.md": markdown(report),
        "results.sarif": sarif_text(report),
        "junit.xml": junit(report),
        PLAN: plan_text(plan, final, parts),
    }
    for name, text in texts.items():
        # A file's name need not be text in any encoding; in JSON, this is even the right way to write such a one.
        (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
