"""A policy as a file to start from: every key, what it means, and the bounds that are off as comments."""

from __future__ import annotations

from harden import toml
from harden.policy import Policy, policy_table

MEANING = {
    "max_accuracy_drop": "share of the verify images that may be lost",
    "max_class_accuracy_drop": "the same for the worst class; with 20 images a class, one image is 0.05",
    "attack_success_by": '"upper": the end of the 95 % interval is held against the bound; "observed": the share',
    "min_images": "on fewer verify images nothing is decided",
    "max_parity_error": "difference between the ONNX file and the network, as a share of the largest logit",
    "max_finding_severity": "info, low, medium, high or critical: a worse finding about the model file fails",
    "max_int8_drop": "accuracy that the int8 file may lose against the fp32 file",
    "max_latency_ratio": "time of the hardened file over the original's",
    "max_bytes": "of the largest file that ships",
    "max_filters_removed": "share of all filters",
    "when_inconclusive": '"inconclusive": exit code 5; "fail": exit code 1',
}
EXAMPLE = {
    "max_class_accuracy_drop": 0.10,
    "max_int8_drop": 0.01,
    "max_latency_ratio": 1.0,
    "max_bytes": 50_000_000,
    "max_filters_removed": 0.5,
}
TAIL = """
# Share of triggered images that may still be misled, by where the trigger comes from. Left out: not checked.
# With n images of other classes than the target, 0 hits allow 3.84 / (n + 3.84): 0.10 needs 35 images, 0.05 needs 73.
[max_attack_success]
{bounds}
# A check that is known to fail, and may until a day:
# [[waiver]]
# check = "attack-success/given/sticker"
# reason = "the device has no camera; ticket 123"
# expires = 2027-01-31
"""


def commented(policy: Policy, name: str) -> str:
    """The text of policy.toml."""
    table = policy_table(policy)
    bounds = table.pop("max_attack_success")
    lines = [f"# harden's {name} policy: what may ship. `harden policy check FILE` reads it back.", ""]
    for key, meaning in MEANING.items():
        lines.append(f"# {meaning}")
        if key in table:
            lines.append(toml.dumps({key: table[key]}).strip())
        else:
            lines.append(f"# {toml.dumps({key: EXAMPLE[key]}).strip()}")
    return "\n".join(lines) + "\n" + TAIL.format(bounds=toml.dumps(bounds))
