"""``python -m bnfx.bench.zoo.forms``: models through ``bnfx.fold``, in each form that it gives.

Each is folded with ``keep="module"`` (with ``assume="example"``, too), ``"graph"`` and ``"auto"``,
and every result is compared with the model itself, in float64. Prints docs/zoo-forms.md.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from bnfx.bench.zoo.catalogue import ZooModel, entries
from bnfx.bench.zoo.forms_page import FormsRow, forms_page
from bnfx.bench.zoo.random_norms import randomise
from bnfx.bench.zoo.rows_file import append_row, read_rows
from bnfx.errors import CaptureError, FoldWarning
from bnfx.folding.given import ExampleInputs
from bnfx.folding.graph_form import fold_graph
from bnfx.folding.keep import fold_kept
from bnfx.folding.verify import relative_error
from bnfx.options import parse_rules
from bnfx.passes.report import GraphReport, Outcome

MAX_ERROR = 1e-9
MAX_PARAMETERS = 30e6  # of a model that is run: it stands in memory five times, in float64

# One of each family, the smallest.
MODELS = (
    *("torchvision/" + name for name in (
        "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
        "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf",
        "resnet18", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1",
        "vgg11_bn", "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large",
        "fcn_resnet50", "fasterrcnn_mobilenet_v3_large_fpn.backbone", "r3d_18", "r2plus1d_18",
    )),
    *("timm/" + name for name in (
        "bat_resnext26ts", "gernet_s", "mobileone_s0", "repvgg_a0", "regnetz_b16", "cspresnet50",
        "darknet17", "cs3darknet_s", "dla34", "dpn48b", "efficientformer_l1", "mobilenetv2_035",
        "mixnet_s", "efficientnet_lite0", "tf_efficientnet_b0", "efficientvit_b0",
        "efficientvit_m0", "fasternet_t0", "fastvit_t8", "ghostnet_050", "hardcorenas_b",
        "hgnetv2_b0", "hrnet_w18_small", "lcnetv2_small", "levit_128s",
    )),
)  # fmt: skip


def measure_forms(name: str, model: nn.Module, *args: Any, **kwargs: Any) -> FormsRow:
    """Fold ``model``, whose BatchNorms are random, in each form, and compare.

    Args:
        name: what the row calls it.
        model: in evaluation mode and float64; it is not changed.
        args, kwargs: its inputs.
    """
    start = time.perf_counter()
    row = FormsRow(name, tuple(args[0].shape))
    norms = _norms(model)
    row.norms = len(norms)
    inputs, rules = ExampleInputs(args, kwargs), parse_rules("all")
    expected = _answer(model, inputs)

    def compare(folded: nn.Module, what: str) -> None:
        error = relative_error(_answer(folded, inputs), expected)
        row.error = max(row.error, error)
        if not error <= MAX_ERROR:
            row.problems.append(f"{what} is off by {error:.1e}")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        same = fold_kept(model, inputs, rules, "module", None)
        compare(same, "the class")
    row.class_left = len(_norms(same))
    row.reasons = " ".join(str(w.message) for w in caught if issubclass(w.category, FoldWarning))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FoldWarning)
        vouched = fold_kept(model, inputs, rules, "module", "example")
    compare(vouched, "the class that was vouched for")
    row.vouched_left = len(_norms(vouched))
    missing: set[str] = set()
    try:
        graph, report = fold_graph(model, inputs, rules)
    except CaptureError as error:
        row.problems += [] if "cannot capture" in str(error) else [str(error)]
    else:
        compare(graph, "the graph")
        seen, folded = _seen(report), _folded(report)
        row.graph_left = len(norms & seen - folded)
        row.unreached = len(norms - seen)
        missing = _norms(same) & folded
    with warnings.catch_warnings(), suppress(CaptureError):
        warnings.simplefilter("ignore")
        row.form = "refused"  # no graph, and nothing to fold in the class
        either = fold_kept(model, inputs, rules, "auto", None)
        compare(either, "what comes back")
        row.form = "graph" if isinstance(either, fx.GraphModule) else "class"
    if missing and str(len(missing)) not in re.findall(r"(\d+) BatchNorms? left", row.reasons):
        row.problems.append(f"{len(missing)} BatchNorms are left without a word")
    row.seconds = time.perf_counter() - start
    return row


def _answer(model: nn.Module, inputs: ExampleInputs) -> Any:
    args, kwargs = inputs.copied()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)  # some models add noise
        return model(*args, **kwargs)


def _norms(model: nn.Module) -> set[str]:
    """The modules with running statistics."""
    return {
        path
        for path, module in model.named_modules()
        if isinstance(getattr(module, "running_var", None), torch.Tensor)
    }


def _seen(report: GraphReport) -> set[str]:
    return {verdict.site.name.split(":")[0] for verdict in report.verdicts}


def _folded(report: GraphReport) -> set[str]:
    """Those that every call of them lost."""
    kept = {
        verdict.site.name.split(":")[0]
        for verdict in report.verdicts
        if verdict.outcome not in (Outcome.FOLDED, Outcome.MERGED)
    }
    return _seen(report) - kept


def run(names: Sequence[str], rows: Path | None) -> int:
    """Measure the models, print the page, and return the exit status.

    Args:
        names: of models of the zoo.
        rows: a file of rows, one JSON object a line; what is there is not measured again.
    """
    known = read_rows(rows, lambda row: FormsRow(**row))
    catalogue = {entry.name: entry for entry in entries()}
    for name in names:
        if name in known:
            continue
        print(name, file=sys.stderr, flush=True)
        known[name] = _measure(catalogue[name])
        append_row(rows, asdict(known[name]))
    measured = [known[name] for name in names]
    print("\n".join(forms_page(measured)))
    for row in measured:
        for problem in row.problems:
            print(f"{row.model}: {problem}", file=sys.stderr)
    return int(any(row.problems for row in measured))


def _measure(entry: ZooModel) -> FormsRow:
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = entry.load().double().eval()
            x = torch.randn(entry.shape, dtype=torch.float64)
        randomise(model, x)
        return measure_forms(entry.name, model, x)
    except Exception as error:
        return FormsRow(entry.name, entry.shape, problems=[f"{type(error).__name__}: {error}"])
    finally:
        torch._dynamo.reset()
        gc.collect()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=MODELS, help="names of models of the zoo")
    parser.add_argument("--rows", type=Path, help="a file of rows, which is added to")
    chosen = parser.parse_args()
    sys.exit(run(chosen.only, chosen.rows))
