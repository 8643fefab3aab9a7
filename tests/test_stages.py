"""What the pipeline's stages promise, whatever the method."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from datetime import date
from typing import cast

from harden import stages
from harden.judge import judge
from harden.measure import measure
from harden.network import Classifier
from harden.policy import Policy, Waiver
from harden.reports.junit import junit
from harden.types import Evidence, Images, Method, Run, Splits, Trigger
from tests.made import report
from tests.planted import TARGET, Planted, stamp

FIRST = "attack-success/recovered/patch to class 0"
SECOND = "attack-success/recovered/patch to class 0 (2)"


@dataclass(frozen=True)
class Twins:
    """A method that recovers one trigger several times."""

    def recover(self, model: Classifier, splits: Splits, run: Run) -> Evidence:  # noqa: ARG002
        def apply(images: Images) -> Images:
            return Images(stamp(images.pixels), images.labels, images.names)

        names = ("patch to class 0", "patch to class 0", "warp to class 0", "patch to class 0")
        return Evidence("backdoored", (TARGET,), (), tuple(Trigger(n, "recovered", TARGET, apply) for n in names))


def recovered(planted: Planted, splits: Splits) -> tuple[Trigger, ...]:
    return stages.recover(cast(Method, Twins()), planted.model, splits, (), Run()).triggers


def test_stand_ins_of_one_kind_are_told_apart(planted: Planted, planted_splits: Splits) -> None:
    names = [trigger.name for trigger in recovered(planted, planted_splits)]
    assert names == ["patch to class 0", "patch to class 0 (2)", "warp to class 0", "patch to class 0 (3)"]


def test_a_waiver_covers_one_of_them_and_reports_name_each_once(planted: Planted, planted_splits: Splits) -> None:
    run = report()
    attacks = measure(planted.model, planted_splits.verify, recovered(planted, planted_splits)[:2]).attack_success
    assert run.export is not None
    run = replace(run, export=replace(run.export, measured=replace(run.export.measured, attack_success=attacks)))
    policy = Policy(waivers=(Waiver(SECOND, "known", date(2027, 1, 1)),))
    judged = judge(run, policy, date(2026, 1, 1))
    found = {check.name: check.waived for check in judged.checks if check.name.startswith("attack-success")}
    assert found.keys() == {FIRST, SECOND}
    assert not found[FIRST]
    assert found[SECOND]
    text = junit(replace(run, verdict=judged))
    assert text.count(f'name="{FIRST}"') == text.count(f'name="{SECOND}"') == 1


def test_a_stage_leaves_a_share_of_the_time_to_what_comes_after() -> None:
    now = time.monotonic()
    run = Run(deadline=now + 100).leaving(0.25)
    assert now + 74 < run.deadline <= now + 75.1
    assert Run().leaving(0.5).deadline == math.inf
    late = Run(deadline=now - 1)
    assert late.leaving(0.5).deadline == late.deadline


def test_why_a_scan_decided_is_a_sentence_among_others() -> None:
    def why(said: str) -> str:
        return stages.scan_of(Evidence("inconclusive", (), (), (), said)).why

    assert why("this method does not look for a trigger") == "This method does not look for a trigger."
    assert why("2 of 4 classes can be reached.") == "2 of 4 classes can be reached."
    assert why("") == ""
