"""BatchNorms in a captured graph of which no call of ``batch_norm`` is left to be shared."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnfx.passes.fx.training.synchronise import graph_modules
from bnfx.sync.graphs.owner import owner_of
from bnfx.sync.module import SyncBatchNorm


def own_arithmetic(module: fx.GraphModule) -> list[nn.Module]:
    """Those in training whose code computes by itself what ``batch_norm`` would."""
    layers, calls = dict[str, fx.Node](), set[str]()
    for each in graph_modules(module):
        for node in each.graph.nodes:
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            paths = {str(path): kind for path, kind in stack if _is_batch_norm(kind)}
            if "batch_norm" in str(node.target):
                calls.update(paths)
            elif stack and str(stack[-1][0]) in paths:
                layers[str(stack[-1][0])] = node
    found = (owner_of(node) for path, node in layers.items() if path not in calls)
    return [owner for owner in found if owner is not None and owner.training]


def _is_batch_norm(kind: object) -> bool:
    own = (SyncBatchNorm, nn.SyncBatchNorm)
    return isinstance(kind, type) and issubclass(kind, _BatchNorm) and not issubclass(kind, own)
