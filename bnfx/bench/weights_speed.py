"""Folded weights, live and frozen, against the alternatives and the limit, in one interleaved run.

Run as ``python -m bnfx.bench.weights_speed [model ...] [--batch N ...]``. For each model and batch
size it prints median milliseconds a call, and ratios (below 1: bnfx is faster), of

- Inductor as it is by default, and with freezing (set globally: as an option of ``torch.compile``
  it silently does nothing), which answers with old weights after a change;
- the *twin*: the model with its BatchNorms replaced by identities, compiled with the same settings.
  It computes less than any folded model must, so it is the limit;
- bnfx, weights live and frozen.

Then what a refresh costs, and what is kept for the backward where the fold is traced.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo.callback
import torchvision
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from bnfx.bench.on_models.image import image
from bnfx.bench.on_models.twins import twin_of

MODELS = ("resnet18", "resnet50", "mobilenet_v2")
BATCHES = (1, 8)
CALLS = 40
REFRESHES = 9
WARM_UPS = 3


@dataclass(frozen=True)
class Speed:
    """Median milliseconds a call."""

    model: str
    batch: int
    inductor: float
    freezing: float
    twin: float
    live: float
    frozen: float


def model_of(name: str) -> nn.Module:
    """torchvision's model, its BatchNorms no identities."""
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name, weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.1, 0.1)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return model.requires_grad_(False)


def interleaved_ms(
    models: Sequence[Callable[..., Any]], image: torch.Tensor, repeats: int
) -> list[float]:
    """Median milliseconds a call of each model, called in turn so that noise hits all alike.

    Compiling is not part of it, so neither is the state of Inductor's cache.
    """
    times: list[list[float]] = [[] for _ in models]
    for turn in range(WARM_UPS + repeats):
        for model, own in zip(models, times, strict=True):
            start = time.perf_counter()
            model(image)
            if turn >= WARM_UPS:
                own.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(own) for own in times]


def measure(name: str, batch: int) -> Speed:
    """Compile every contender, and call them in turn."""
    torch._dynamo.reset()
    model, x = model_of(name), image().repeat(batch, 1, 1, 1)
    compile_ = torch.compile
    contenders = [
        (False, compile_(copy.deepcopy(model), dynamic=False)),
        # Were the options those of the first one, Dynamo would hand out its code.
        (True, compile_(copy.deepcopy(model), dynamic=False, options={"freezing": True})),
        (True, compile_(twin_of(model), dynamic=False, options={"freezing": True})),
        *(
            (False, compile_(model, backend="bnfx", dynamic=False, options={"weights": weights}))
            for weights in ("live", "frozen")
        ),
    ]
    limit = {"recompile_limit": 64}
    with torch.no_grad(), torch._dynamo.config.patch(limit):
        for freezing, compiled in contenders:
            with torch._inductor.config.patch(freezing=freezing):
                compiled(x)
        times = interleaved_ms([compiled for _, compiled in contenders], x, CALLS)
    return Speed(name, batch, *times)


def refresh_ms(name: str) -> tuple[float, float, int]:
    """Milliseconds of a call after ``load_state_dict``, and of one without a change; and how many
    graphs were compiled by all of them.
    """
    torch._dynamo.reset()
    model, x = model_of(name), image()
    compiled = torch.compile(model, backend="bnfx", options={"weights": "live"})
    state = copy.deepcopy(model.state_dict())
    compilations: list[Any] = []
    with torch.no_grad():
        compiled(x)
        compiled(x)
        handler = torch._dynamo.callback.callback_handler
        handler.register_start_callback(compilations.append)
        changed, settled = [], []
        for _ in range(REFRESHES):
            model.load_state_dict(state)
            changed.append(_ms(lambda: compiled(x)))
            settled.append(_ms(lambda: compiled(x)))
        handler.remove_start_callback(compilations.append)
    return statistics.median(changed), statistics.median(settled), len(compilations)


def saved_mib(name: str, backend: str) -> tuple[float, float]:
    """MiB that a forward with gradients keeps for the backward: an image, and whatever the batch
    (weights in the layout that the backward takes). Parameters are not counted.
    """
    torch._dynamo.reset()
    model, x = model_of(name).requires_grad_(), image(64)
    call: Callable[..., Any] = model
    if backend != "eager":
        call = torch.compile(model, backend=backend, dynamic=False)
    small, large = (_saved_mib(model, call, x.repeat(n, 1, 1, 1)) for n in (2, 4))
    each = (large - small) / 2
    return each, small - 2 * each


def _saved_mib(model: nn.Module, call: Callable[..., Any], x: torch.Tensor) -> float:
    held: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = call(x)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), x)}
    size = sum(size for address, size in held.items() if address not in own)
    del out
    return size / 2**20


def _ms(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def _table(speeds: Sequence[Speed]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model, batch")
    for heading in (
        "Inductor\nms",
        "freezing\nms",
        "twin\nms",
        "live\nms",
        "frozen\nms",
        "live /\nInductor",
        "live /\nfreezing",
        "live /\ntwin",
        "frozen /\nfreezing",
        "frozen /\ntwin",
    ):
        table.add_column(heading, justify="right")
    for s in speeds:
        ratios = (
            s.live / s.inductor,
            s.live / s.freezing,
            s.live / s.twin,
            s.frozen / s.freezing,
            s.frozen / s.twin,
        )
        table.add_row(
            f"{s.model}, {s.batch}",
            *(f"{ms:.1f}" for ms in (s.inductor, s.freezing, s.twin, s.live, s.frozen)),
            *(f"{ratio:.2f}" for ratio in ratios),
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bnfx.bench.weights_speed")
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--batch", nargs="+", type=int, default=BATCHES)
    chosen = parser.parse_args()
    console = Console(highlight=False, width=120)
    speeds = [measure(name, batch) for name in chosen.models for batch in chosen.batch]
    console.print(_table(speeds))
    for name in chosen.models:
        changed, settled, compilations = refresh_ms(name)
        saved = [saved_mib(name, backend) for backend in ("eager", "inductor", "bnfx")]
        console.print(
            f"{name}: a call after load_state_dict takes {changed:.0f} ms, one without a change "
            f"{settled:.0f} ms: a refresh of {changed - settled:.0f} ms, {compilations} graphs "
            "compiled.\n"
            f"{name}: kept for the backward at 64x64, MiB an image, and MiB whatever the batch: "
            + ", ".join(
                f"{who} {each:.2f} and {rest:.0f}"
                for who, (each, rest) in zip(
                    ("eager", "Inductor", "bnfx (traced)"), saved, strict=True
                )
            )
            + ".",
            soft_wrap=True,
        )
    console.print(
        f"Medians of {CALLS} interleaved calls, float32, CPU; {torch.get_num_threads()} threads; "
        f"torch {torch.__version__}. The machine's other load: not known here.",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
