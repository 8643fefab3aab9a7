"""What can be found in a model file: stable ids for reports and SARIF, how bad each is, and what taught it."""

from __future__ import annotations

from dataclasses import dataclass

from harden.types import Finding, Severity

MAX_SIZE = 4 * 2**30
"""Bytes that a file, what it unpacks to, and its tensors may each take, unless the caller says otherwise."""


@dataclass(frozen=True)
class Rule:
    """One kind of finding."""

    severity: Severity
    about: str
    reference: str = ""


_PICKLE = "https://docs.python.org/3/library/pickle.html#module-pickle"
_CWE_CODE = "https://cwe.mitre.org/data/definitions/502.html"
_CWE_PATH = "https://cwe.mitre.org/data/definitions/22.html"
_CWE_BOMB = "https://cwe.mitre.org/data/definitions/409.html"
_CWE_PARSER = "https://cwe.mitre.org/data/definitions/436.html"

RULES: dict[str, Rule] = {
    "pickle-global": Rule("critical", "names a class or function that is not known to be harmless", _CWE_CODE),
    "pickle-call": Rule("critical", "calls something in a way that no ordinary checkpoint does", _CWE_CODE),
    "pickle-opcode": Rule("high", "uses a pickle instruction that no ordinary checkpoint needs", _PICKLE),
    "pickle-malformed": Rule("high", "holds a pickle that ends in disorder", _CWE_PARSER),
    "pickle-size": Rule("high", "asks for more memory than it brings data for", _CWE_BOMB),
    "zip-path": Rule("high", "has a member whose name leaves the archive", _CWE_PATH),
    "zip-duplicate": Rule("high", "has two members of one name, so that two readers see two files", _CWE_PARSER),
    "zip-structure": Rule("high", "is laid out so that two readers may see two different archives", _CWE_PARSER),
    "zip-bomb": Rule("high", "unpacks to far more than its own size", _CWE_BOMB),
    "zip-member": Rule("high", "has a member that does not belong into such an archive", _CWE_PARSER),
    "safetensors-header": Rule("high", "has a safetensors header that contradicts its data", _CWE_PARSER),
    "json-header": Rule("high", "has JSON that contradicts its data", _CWE_PARSER),
    "onnx-external": Rule("high", "reads tensors from another file", _CWE_PATH),
    "onnx-operator": Rule("high", "uses operators that only foreign code can run", _CWE_CODE),
    "file-size": Rule("high", "is larger than --max-input", _CWE_BOMB),
    "contract-code": Rule("critical", "is a contract that names Python code", _CWE_CODE),
    "code-torchscript": Rule("medium", "is a TorchScript program: only its weights are read", ""),
    "code-export": Rule(
        "medium",
        "is a torch.export archive, whose loader runs what it holds: only its weights are read",
        "https://github.com/pytorch/pytorch/pull/176791",
    ),
    "code-trusted": Rule("medium", "was opened as trusted code, at the user's word", _CWE_CODE),
    "second-opinion-bad": Rule("medium", "is dangerous in picklescan's opinion, which refuses nothing", _CWE_CODE),
    "second-opinion": Rule("info", "was shown to picklescan", ""),
    "weights-nested": Rule("info", "keeps its weights inside a larger checkpoint", ""),
    "weights-prefix": Rule("info", "names its weights with a prefix", ""),
    "weights-extra": Rule("info", "holds entries that are no weights", ""),
    "weights-precision": Rule("info", "keeps its weights in another precision", ""),
    "architecture-guessed": Rule("low", "does not say its architecture", ""),
    "contract-default": Rule("low", "does not say how its images are prepared", ""),
    "output-probabilities": Rule("low", "gives probabilities instead of logits", ""),
}


def finding(rule: str, message: str, location: str = "") -> Finding:
    """A finding with the severity and the reference of its rule."""
    known = RULES[rule]
    return Finding(rule, known.severity, message, location, known.reference)


def is_unsafe(found: Finding) -> bool:
    """Whether a finding alone is reason to refuse the file."""
    return found.severity in ("high", "critical")
