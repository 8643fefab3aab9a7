"""Which architectures can be pruned for real: one row for each network of torchvision and timm, written as it goes.

    python -m benchmarks.architectures docs/architectures.md            the whole matrix, on from where it stands
    python -m benchmarks.architectures - resnet18 timm:hrnet_w18_small  a few, to the screen

Each network gets random weights and statistics, and three filters are closed in each of up to six layers spread over
it, with no accuracy guard and no alignment, so that every layer is really tried. The result is held against a
reference that the surgery knows nothing of: the original network in float64 in which the consumers' weights for the
removed channels are zero, and the refused filters are forced to zero by hooks. And the network is built again from
its record. Linear layers at each place of a map, which only the next one reads, count as convolutions.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harden.network import Classifier, Unit, units
from harden.pruning.choose import by_layer
from harden.pruning.rebuild import rebuild
from harden.pruning.record import weights_sha256
from harden.pruning.surgery import operate
from harden.types import Contract, Filter, Images, Proposal, Pruned, Run, Splits

EXACT = 1e-9
LAYERS = 6

# From small to large, so that a run that is cut short has most of them.
NETWORKS = """
resnet18 mobilenet_v2 mobilenet_v3_small squeezenet1_0 squeezenet1_1 mnasnet0_5 shufflenet_v2_x0_5 regnet_x_400mf
regnet_y_400mf efficientnet_b0 googlenet densenet121 mobilenet_v3_large mnasnet1_0 shufflenet_v2_x1_0
timm:resnet18 timm:resnet18d timm:resnet26t timm:ecaresnet26t timm:skresnet18 timm:resnext26ts timm:mobilenetv1_100
timm:mobilenetv2_050 timm:mobilenetv3_small_100 timm:mobilenetv3_large_100 timm:mobilenetv4_conv_small
timm:efficientnet_lite0 timm:efficientnet_b0 timm:tf_efficientnet_b0 timm:fbnetc_100 timm:mnasnet_100
timm:semnasnet_100 timm:spnasnet_100 timm:tinynet_e timm:lcnet_050 timm:mixnet_s timm:hardcorenas_a timm:rexnet_100
timm:ghostnet_100 timm:ghostnetv2_100 timm:hrnet_w18_small timm:dla34 timm:dla46_c timm:repvgg_a0 timm:regnetx_002
timm:regnety_002 timm:regnetz_b16 timm:convnext_atto timm:fastvit_t8 timm:mobileone_s0 timm:selecsls42b
timm:ese_vovnet19b_dw timm:hgnet_tiny timm:edgenext_xx_small timm:efficientformerv2_s0 timm:repghostnet_050
timm:starnet_s1 timm:densenet121 timm:nfnet_l0 timm:eca_nfnet_l0
resnet34 resnet50 resnext50_32x4d inception_v3 efficientnet_b1 convnext_tiny vgg11 vgg16_bn alexnet
timm:resnet50d timm:seresnet50 timm:resnetv2_50 timm:resnetv2_50x1_bit timm:res2net50_26w_4s timm:cspresnet50
timm:efficientnetv2_rw_t timm:inception_v3 timm:inception_v4 timm:xception41 timm:legacy_xception timm:vovnet39a
timm:darknet53 timm:cspdarknet53 timm:vgg11_bn timm:convnextv2_atto timm:inception_next_atto
timm:mobilenetv4_hybrid_medium vgg13_bn vgg19_bn resnet101 wide_resnet50_2 densenet169 efficientnet_v2_s
timm:inception_resnet_v2 timm:dm_nfnet_f0 maxvit_t swin_t vit_b_16
mnasnet0_75 mnasnet1_3 shufflenet_v2_x1_5 shufflenet_v2_x2_0 regnet_x_800mf regnet_y_800mf regnet_x_1_6gf
regnet_y_1_6gf efficientnet_b2 regnet_x_3_2gf efficientnet_b3 regnet_y_3_2gf densenet201 efficientnet_b4 densenet161
convnext_small efficientnet_b5 regnet_x_8gf regnet_y_8gf efficientnet_b6 efficientnet_v2_m resnet152 regnet_x_16gf
efficientnet_b7 regnet_y_16gf resnext101_64x4d resnext101_32x8d convnext_base regnet_x_32gf efficientnet_v2_l
wide_resnet101_2 vgg11_bn vgg13 vgg16 vgg19 regnet_y_32gf convnext_large regnet_y_128gf
""".split()  # noqa: SIM905 (a list of words reads better)
SIZES = (32, 64, 128, 224)


def build(spec: str) -> nn.Module:
    family, _, name = spec.rpartition(":")
    if family == "timm":
        import timm

        return timm.create_model(name, num_classes=10, pretrained=False)  # type: ignore[no-any-return]
    import torchvision

    more = {"init_weights": True, "aux_logits": True} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, num_classes=10, **more)  # type: ignore[no-any-return]


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics, gains and biases that hide no mistake: fresh ones are zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None:
                layer.running_mean.normal_(0, 0.1, generator=generator)
                layer.running_var.uniform_(0.5, 2, generator=generator)
                if layer.affine:
                    layer.weight.uniform_(0.5, 1.5, generator=generator)
                    layer.bias.normal_(0, 0.1, generator=generator)
    return module.eval()


def images(count: int, size: int, seed: int) -> Images:
    pixels = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return Images(pixels, torch.arange(count) % 10, tuple(map(str, range(count))))


def proposed(model: Classifier, layers: int) -> tuple[Filter, ...]:
    """Three filters of each of so many layers."""
    names = [name for name, unit in units(model).items() if unit.width > 3]
    spread = {names[round(i * (len(names) - 1) / (layers - 1))] for i in range(layers)} if names else set()
    widths = {name: unit.width for name, unit in units(model).items()}
    return tuple(Filter(n, i) for n in names if n in spread for i in (1, widths[n] // 2, widths[n] - 1))


@torch.no_grad()
def reference(model: Classifier, pruned: Pruned, inputs: Tensor) -> Tensor:
    """The original network with the removed channels read as zero by their consumers, and the masked ones silent."""
    network = deepcopy(model.network).double().eval()
    modules = dict(network.named_modules())
    for name, ends in pruned.record["kept"].items():
        if "in" in ends:
            weight = modules[name].weight
            assert isinstance(weight, Tensor)
            gone = sorted(set(range(weight.shape[1])) - set(ends["in"]))
            weight[:, gone] = 0
    parts = units(model)
    for layer, rows in by_layer(pruned.masked).items():
        unit = parts[layer]
        place = modules[layer if unit.norm is None else unit.norm_name]

        def silence(*called: Tensor, unit: Unit = unit, rows: list[int] = rows) -> Tensor:
            output = called[2].clone()
            unit.channels_first(output)[:, rows] = 0
            return output

        place.register_forward_hook(silence)
    return network(inputs)  # type: ignore[no-any-return]


def smallest(module: nn.Module) -> int:
    """The smallest of a few image sizes that the network can take."""
    for size in SIZES[:-1]:
        try:
            with torch.no_grad():
                module(torch.zeros(2, 3, size, size))
            return size
        except Exception:  # each network has its own way to say that an image is too small
            continue
    return SIZES[-1]


def measure(spec: str, size: int | None = None, layers: int = LAYERS) -> dict[str, str]:
    """One row of the table."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = randomised(build(spec))
    size = size or smallest(module)
    model = Classifier(module, Contract(10, tuple("0123456789"), (3, size, size), (0.5,) * 3, (0.25,) * 3))
    splits = Splits(images(4, size, 1), images(4, size, 2), images(4, size, 3))
    guilty = proposed(model, layers)
    began = time.monotonic()
    pruned = operate(model, Proposal(guilty), splits, Run(), align=1, max_accuracy_drop=1.0, renew_statistics=False)
    seconds = time.monotonic() - began
    inputs = (splits.verify.pixels.double() - 0.5) / 0.25
    with torch.no_grad():
        expected = reference(model, pruned, inputs)
        found = deepcopy(pruned.module).double().eval()(inputs)
    error = float((found - expected).abs().max() / expected.abs().max())
    state = pruned.module.state_dict()
    again = rebuild(build(spec), dict(pruned.record, weights_sha256=weights_sha256(state)), state)
    with torch.no_grad():
        same = torch.equal(again(inputs.float()), pruned.module(inputs.float()))
    reasons = Counter(generic(refusal.reason) for refusal in pruned.refusals)
    tried = {filter.layer for filter in guilty}
    cut = tried - {refusal.filter.layer for refusal in pruned.refusals}
    before, after = pruned.record["parameters"]
    verdict = "BROKEN" if not error <= EXACT or not same else "exact" if pruned.removed else "refused"
    return {
        "network": spec,
        "convolutions": str(len(units(model))),
        "result": verdict,
        "layers cut": f"{len(cut)} of {len(tried)}",
        "filters gone": str(len(pruned.removed)),
        "parameters": f"{100 * (after - before) / before:+.1f} %",
        "error": f"{error:.0e}",
        "seconds": f"{seconds:.1f}",
        "why the rest stays": "; ".join(reason for reason, _ in reasons.most_common(3)),
    }


def generic(reason: str) -> str:
    """The reason without the names and figures of one layer."""
    for mark, short in (
        ("in groups", "grouped convolution"),
        (" groups, which", "grouped convolution"),
        ("normalises over several", "normalises over several channels"),
        ("feeds the output", "feeds the output"),
        ("more than once", "used more than once"),
        ("shares its weights", "shared weights"),
        ("standardises its weights", "weights standardised over all inputs"),
        ("is a Conv1d", "a convolution across channels (ECA)"),
        ("cannot follow", "torch-pruning cannot follow the network"),
        ("computed otherwise", "the proof failed"),
        ("broke without", "the proof failed (shapes)"),
        ("entangled", "channels entangled (shuffle or split)"),
        ("not see this layer", "not analysed"),
    ):
        if mark in reason:
            return short
    return reason


def rows(specs: list[str]) -> Iterator[dict[str, str]]:
    for spec in specs:
        try:
            yield measure(spec)
        except Exception as error:  # one network that cannot even be built does not end the table
            yield {"network": spec, "result": f"CRASH {type(error).__name__}: {error}"[:160].replace("\n", " ")}


COLUMNS = (
    "network", "convolutions", "result", "layers cut", "filters gone", "parameters", "error", "seconds",
    "why the rest stays",
)  # fmt: skip


def page(found: Mapping[str, dict[str, str]]) -> str:
    """docs/architectures.md."""
    head = ["# What can be pruned", "", (__doc__ or "").split("\n\n")[2].replace("\n", " ").strip(), ""]
    lines = [*head, line(dict.fromkeys(COLUMNS, "") | {c: c for c in COLUMNS}), "|" + "---|" * len(COLUMNS)]
    lines += [line(row) for row in found.values()]
    results = Counter(row["result"].split()[0] for row in found.values())
    return "\n".join([*lines, "", ", ".join(f"{n} {result}" for result, n in sorted(results.items())) + ".", ""])


def line(row: Mapping[str, str]) -> str:
    return "| " + " | ".join(row.get(column, "") for column in COLUMNS) + " |"


def read_page(path: Path) -> dict[str, dict[str, str]]:
    """The rows that a page has already, by network; those that crashed are tried again."""
    if not path.is_file():
        return {}
    lines = [text for text in path.read_text(encoding="utf-8").splitlines() if text.startswith("| ")]
    cells = [[cell.strip() for cell in text.strip("|").split("|")] for text in lines]
    found = {row[0]: dict(zip(COLUMNS, row, strict=False)) for row in cells[1:]}
    return {name: row for name, row in found.items() if not row["result"].startswith("CRASH")}


def main() -> None:
    target, *only = sys.argv[1:]
    found = {} if target == "-" else read_page(Path(target))
    for row in rows([spec for spec in only or NETWORKS if spec not in found]):
        found[row["network"]] = row
        print(line(row), flush=True)
        if target != "-":
            Path(target).write_text(page(found), encoding="utf-8")
    if target != "-":
        Path(target).write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
