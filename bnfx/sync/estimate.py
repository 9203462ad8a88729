"""``bnfx.estimate_statistics``: recomputes running statistics from data, over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from bnfx.errors import SyncError
from bnfx.options import Options
from bnfx.report.progress import progress as progress_bar
from bnfx.sync.graphs.outside import cover_batch_norms
from bnfx.sync.graphs.ownership import sharing_everywhere
from bnfx.sync.group import Peers, peers_of

_RAISED, _ENDED = -1, -2  # in place of a number of samples
_UNTOUCHED = -1.0  # no variance is negative: the layer did not run, or had none to note


def estimate_statistics(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    process_group: Any = None,
    progress: bool = True,
) -> None:
    """Recompute the running statistics of all BatchNorms, as needed after averaging weights::

        running_mean = sum_b(n_b mean_b)/sum_b(n_b)     running_var = sum_b(n_b var_b)/sum_b(n_b)

    over batches b of n_b samples, on all ranks together. Each batch's statistics are computed in
    the dtype of the buffers, and averaged in float64. If all batches have the same size, the result
    is that of ``torch.optim.swa_utils.update_bn``. A batch of a single value per channel has no
    variance, and does not count for that layer; a layer that does not run stays as it is.
    All other modules are in evaluation mode, so dropout is off. The model runs in eager mode,
    whatever it was compiled with.

    Args:
        model: a model with BatchNorms; it may be compiled or wrapped in DDP. Modes and momenta stay
            as they are, and so do statistics if anything raises.
        loader: yields batches: what ``model`` takes, or a tuple or list that begins with it (such
            as ``(inputs, labels)``). A mapping is passed as keyword arguments, any other nesting of
            tensors as the only argument. Tensors are moved to the model's device. Ranks may have
            different numbers of batches; a rank with none left runs an empty slice of its last one.
        process_group: the group whose ranks share statistics; ``None`` for the default group, if
            one is up.
        progress: whether to show a progress bar, on the first rank.

    Raises:
        OptionError: if ``process_group`` is not a process group.
        SyncError: if another rank's loader raises, or if this rank's loader has no batch at all
            while another's does.
        ValueError: if the loader has no batch, or if a layer gets a single value per channel in
            each.
    """
    options = Options(process_group=process_group)
    layers = [each for each in model.modules() if isinstance(each, _BatchNorm)]
    layers = [each for each in layers if each.track_running_stats]
    if not layers:
        return
    cover_batch_norms()
    peers = peers_of(process_group)
    total = len(loader) if isinstance(loader, Sized) else 0
    shown = progress and total and (peers is None or dist.get_rank(process_group) == 0)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(sharing_everywhere(model, options))
        stack.enter_context(_estimating(model, layers))
        tell = stack.enter_context(progress_bar(total, lines=False)) if shown else None
        sums = _average(model, layers, _in_step(loader, peers, process_group), tell)
    for layer, (mean, var) in zip(layers, sums, strict=True):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)


def _average(
    model: nn.Module,
    layers: Sequence[_BatchNorm],
    batches: Iterable[tuple[Any, int]],
    tell: Callable[[str], None] | None,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance of each layer, over batches that come with their sizes."""
    device = next((each.device for each in model.parameters()), torch.device("cpu"))
    averages = [(_copied(each.running_mean), _copied(each.running_var)) for each in layers]
    seen, batch = [0] * len(layers), None
    for batch, size in batches:
        if tell is not None:
            tell("estimating running statistics")
        for layer in layers:
            _buffer(layer.running_var).fill_(_UNTOUCHED)
        batch = pytree.tree_map_only(torch.Tensor, lambda each: each.to(device), batch)
        model(**batch) if isinstance(batch, Mapping) else model(batch)
        for place, layer in enumerate(layers):
            if not size or bool((_buffer(layer.running_var) == _UNTOUCHED).any()):
                continue
            seen[place] += size
            found = (_buffer(layer.running_mean), _buffer(layer.running_var))
            for average, value in zip(averages[place], found, strict=True):
                average.lerp_(value.double(), size / seen[place])
    if batch is None:
        raise ValueError("the loader gave no batch, so there is nothing to estimate from")
    for layer, count in zip(layers, seen, strict=True):
        if not count and layer.num_batches_tracked is not None and layer.num_batches_tracked > 0:
            raise ValueError(
                f"a {type(layer).__name__} got a single value per channel in each batch, or none, "
                "of which there is no variance: give it larger batches"
            )
    return averages


def _buffer(value: torch.Tensor | None) -> torch.Tensor:
    assert value is not None
    return value


def _copied(value: torch.Tensor | None) -> torch.Tensor:
    return _buffer(value).to(torch.float64, copy=True)


@contextmanager
def _estimating(model: nn.Module, layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """BatchNorms in training, with the statistics of each batch; the rest in evaluation."""
    modes = [(each, each.training) for each in model.modules()]
    momenta = [each.momentum for each in layers]
    buffers = [dict(each.named_buffers(recurse=False)) for each in layers]
    saved = [{name: each.clone() for name, each in some.items()} for some in buffers]
    model.eval()
    for layer in layers:
        layer.training, layer.momentum = True, 1.0
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.zero_()
    try:
        yield
        for own, old in zip(buffers, saved, strict=True):
            counter = own.get("num_batches_tracked")
            if counter is not None and not counter:  # the layer did not run
                counter.copy_(old["num_batches_tracked"])
    except BaseException:
        for own, old in zip(buffers, saved, strict=True):
            for name, buffer in own.items():
                buffer.copy_(old[name])
        raise
    finally:
        for each, mode in modes:
            each.training = mode
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _in_step(loader: Iterable[Any], peers: Peers | None, group: Any) -> Iterator[tuple[Any, int]]:
    """What the model takes, and the number of samples on all ranks, until no rank has a batch."""
    batches = iter(loader)
    last: Any = None
    while True:
        try:
            batch = next(batches, None)
            mine = None if batch is None else _inputs(batch)
            size = 0 if mine is None else _size(mine)
        except BaseException:
            _agreed(_RAISED, peers, group)
            raise
        sizes = _agreed(_ENDED if mine is None else size, peers, group)
        for rank, said in enumerate(sizes):
            if said == _RAISED:
                raise SyncError(f"the loader of rank {rank} raised; see its own error")
        if all(said == _ENDED for said in sizes):
            return
        if mine is None and last is None:
            raise SyncError("the loader of this rank gave no batch, while those of other ranks did")
        last = last if mine is None else mine
        yield _emptied(last) if mine is None else mine, sum(max(said, 0) for said in sizes)


def _agreed(size: int, peers: Peers | None, group: Any) -> list[int]:
    """What each rank says, by rank."""
    if peers is None:
        return [size]
    sizes: list[Any] = [None] * peers.size
    dist.all_gather_object(sizes, size, group=group)
    return sizes


def _inputs(batch: Any) -> Any:
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def _size(inputs: Any) -> int:
    """Samples: the length of a list, or of the first tensor."""
    if isinstance(inputs, list):
        return len(inputs)
    tensors = [each for each in pytree.tree_leaves(inputs) if isinstance(each, torch.Tensor)]
    if not tensors or not tensors[0].dim():
        raise ValueError(f"the loader gave a {type(inputs).__name__} without a tensor of samples")
    return len(tensors[0])


def _emptied(inputs: Any) -> Any:
    """The same inputs with no samples."""
    if isinstance(inputs, list):
        return inputs[:0]
    return pytree.tree_map_only(torch.Tensor, lambda each: each[:0], inputs)
