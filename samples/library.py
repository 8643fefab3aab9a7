"""harden from Python: `python samples/library.py OUT` cleans the sample into the folder OUT, and reads what it did.

The same settings as on the command line, with underscores. Nothing is printed but what this file prints.
"""

from __future__ import annotations

import sys
from pathlib import Path

import harden

SAMPLES = Path(__file__).parent
ARCHITECTURE = f"{SAMPLES / 'network.py'}:sign_net"


def main(out: Path) -> int:
    model = SAMPLES / "models" / "backdoored.pt"

    found = harden.inspect(model, arch=ARCHITECTURE)
    print(f"{found.source.path.name}: {found.source.format}, {len(found.source.findings)} findings")

    report = harden.clean(model, arch=ARCHITECTURE, clean_dir=SAMPLES / "clean", out=out)
    suspects = ", ".join(report.contract.classes[label] for label in report.scan.target_classes)
    print(f"scan: {report.scan.status} ({suspects or 'no class'})")
    print(f"accuracy: {report.before.accuracy} before, {report.final.accuracy} after")
    for attack in report.final.attack_success:
        low, high = attack.asr.interval()
        print(f"{attack.name}: {attack.asr} of the attacks succeed ({100 * low:.1f} to {100 * high:.1f} %)")

    if report.verdict.status == "pass":
        network = harden.load_run(out, arch=ARCHITECTURE)  # a plain torch module, smaller than the original
        print(f"{sum(p.numel() for p in network.parameters())} parameters, {report.before.parameters} before")

    # the attacker's own trigger, which the run above never saw
    verified = harden.verify(
        out,
        SAMPLES / "verify",
        arch=ARCHITECTURE,
        trigger=str(SAMPLES / "trigger.png"),
        mask=SAMPLES / "mask.png",
        target="speed_70",
    )
    print(f"held against the real trigger: {verified.verdict.status}")
    return 0 if verified.verdict.status == "pass" else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
