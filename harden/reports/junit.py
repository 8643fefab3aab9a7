"""JUnit XML: a test case for each check, so that every CI system shows the verdict as it shows tests.

What did not pass never becomes a plain case, which would read as passed:

    passed        a case by itself
    failed        <failure>
    not decided   <failure> where the verdict is fail, else <skipped>
    waived        <skipped>, with until when and why
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from harden.outcome import Report
from harden.reports import words

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text(value: object) -> str:
    """Text that XML may hold: control characters have no place in it, escaped or not."""
    return _FORBIDDEN.sub("�", str(value))


def junit(report: Report) -> str:
    """The text of junit.xml."""
    marks = [words.mark(check) for check in report.verdict.checks]
    lost = "failed", *(("not decided",) if report.verdict.status == "fail" else ())
    failures = sum(mark in lost for mark in marks)
    skipped = sum(mark not in ("passed", *lost) for mark in marks)
    seconds = f"{sum(report.seconds.values()):.3f}"
    counts = {"tests": str(len(marks)), "failures": str(failures), "errors": "0", "skipped": str(skipped)}
    suites = ElementTree.Element("testsuites", {"name": "harden", **counts, "time": seconds})
    about = {"name": text(f"harden {report.command}"), **counts, "time": seconds, "timestamp": report.created[:19]}
    suite = ElementTree.SubElement(suites, "testsuite", about)
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("verdict", report.verdict.status), ("source", report.source.path), ("seed", report.seed)):
        ElementTree.SubElement(properties, "property", {"name": name, "value": text(value)})
    for check, mark in zip(report.verdict.checks, marks, strict=True):
        case = ElementTree.SubElement(
            suite, "testcase", {"name": text(check.name), "classname": "harden.policy", "time": "0"}
        )
        if mark in lost:
            failure = ElementTree.SubElement(
                case, "failure", {"message": text(words.reason(check)), "type": text(check.name)}
            )
            failure.text = text(f"observed {check.observed}, bound {check.bound}")
        elif mark != "passed":
            ElementTree.SubElement(case, "skipped", {"message": text(f"{mark}: {words.reason(check)}")})
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"
