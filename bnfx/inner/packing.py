"""Weights packed for oneDNN that are inputs of Inductor's code: frozen's speed, live's freshness.

Inductor's freezing packs weights for oneDNN and MKL by folding constants, and bakes them in. Here
it runs the same passes, and then, below AOTAutograd and above code generation,

1. what became constant is made an input again (:mod:`bnfx.inner.lifted_constants`), so that the
   generated code holds no number of the model;
2. how each constant came from the weights is kept as a graph of its own (:class:`_Recorder`), which
   packs other numbers the same way.

The constants that a call is served with are those of the set of parameters that it is called with;
:func:`serve` passes them below AOTAutograd, which knows nothing of packed tensors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch import fx

from bnfx.inner import packed_ops
from bnfx.inner.lifted_constants import LiftedConstants, PackingError, lift_constants
from bnfx.passes.fx.lowering.bind import BOUND_PREFIX
from bnfx.torch_private import without_autocast

_serving = threading.local()


class Packed:
    """A compiled body, and what makes its constants from weights.

    Args:
        run: takes the inputs of the graph that are no weights; call it through :func:`serve`.
        pack: names of weights -> constants, in the order in which the body takes them.
    """

    run: Callable[..., Any]
    pack: Callable[[Mapping[str, torch.Tensor]], list[torch.Tensor]]


def serve(packed: Packed, inputs: Sequence[Any], constants: Sequence[torch.Tensor]) -> Any:
    """Call the body with ``inputs`` and ``constants``."""
    before = getattr(_serving, "constants", None)
    _serving.constants = constants
    try:
        return packed.run(*inputs)
    finally:
        _serving.constants = before


def compile_packed(
    module: fx.GraphModule,
    names: Mapping[str, str],
    example_inputs: Sequence[Any],
    patches: Mapping[str, Any],
) -> Packed:
    """Compile a graph whose weights are bound (:func:`bnfx.passes.fx.lowering.bind.bind`).

    Args:
        module: its bound attributes hold the weights' present numbers.
        names: name that was bound -> name that :attr:`Packed.pack` knows it by.
        example_inputs: the inputs that are not bound.
        patches: Inductor's options.

    Raises:
        PackingError: if the passes did something that cannot be done again.
    """
    from torch._inductor import freezing
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    bound = {
        name: getattr(module, f"{BOUND_PREFIX}{bound}")
        for bound, name in names.items()
        if hasattr(module, f"{BOUND_PREFIX}{bound}")
    }
    if any(tensor.device.type != "cpu" for tensor in bound.values()):
        raise PackingError("oneDNN packs weights on CPU only")
    recorder = _Recorder(vars(freezing)["constant_fold"], bound)
    packed = Packed()
    compiled: list[Any] = []

    def inner_compile(gm: fx.GraphModule, inputs: Sequence[Any], **rest: Any) -> Any:
        if compiled:
            raise PackingError("Inductor compiled the graph in parts")
        lifted = lift_constants(gm, inputs)
        packed.pack = recorder.program(lifted)
        code: Any = compile_fx_inner(gm, [*inputs, *lifted.examples], **rest)
        compiled.append(code)

        def run(args: list[Any]) -> Any:
            inputs = [*args, *_serving.constants]
            args.clear()  # as who is called this way must: the caller's references are done with
            return code(inputs)

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    # A packed tensor has no strides that could be asserted.
    patches = {**patches, "freezing": True, "size_asserts": False}
    with mock.patch.object(freezing, "constant_fold", recorder.here_only()):
        run: Any = compile_fx(
            module, list(example_inputs), inner_compile=inner_compile, config_patches=patches
        )
    packed.run = run
    if not compiled:
        raise PackingError("Inductor did not freeze the graph")
    return packed


class _Recorder:
    """Lets Inductor fold constants, and keeps how each came from the weights.

    Args:
        original: Inductor's own ``constant_fold``.
        weights: name -> the very tensor that is bound.
    """

    def __init__(self, original: Callable[..., None], weights: Mapping[str, torch.Tensor]) -> None:
        self._original = original
        self._weights = weights
        self._names = {id(tensor): name for name, tensor in weights.items()}
        self._made: dict[str, tuple[fx.Node, fx.GraphModule]] = {}  # attribute -> its node

    def here_only(self) -> Callable[..., None]:
        """In place of Inductor's: this thread's graph is recorded, other threads get Inductor's."""
        owner = threading.get_ident()

        def constant_fold(*args: Any, **kwargs: Any) -> None:
            mine = threading.get_ident() == owner
            (self.constant_fold if mine else self._original)(*args, **kwargs)

        return constant_fold

    def constant_fold(self, gm: fx.GraphModule, *args: Any, **kwargs: Any) -> None:
        """Fold as Inductor does, and keep what came of what."""
        before = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        before.graph_copy(gm.graph, copies)
        named = {old.name: new for old, new in copies.items()}
        old = {str(node.target): None for node in gm.graph.find_nodes(op="get_attr")}
        held = fx.GraphModule({name: getattr(gm, name) for name in old}, before)
        self._original(gm, *args, **kwargs)
        for node in gm.graph.find_nodes(op="get_attr"):
            name = str(node.target)
            if name not in old:  # it took the name of what it stands for
                self._made[name] = (named[node.name], held)

    def program(self, lifted: LiftedConstants) -> Callable[[Mapping[str, torch.Tensor]], list[Any]]:
        """What makes the constants from weights.

        Raises:
            PackingError: if the weights at hand do not give the constants that Inductor made.
        """
        graph = fx.Graph()
        attributes: dict[str, Any] = {}
        reads = {name: graph.placeholder(f"weight_{at}") for at, name in enumerate(self._weights)}
        written: dict[fx.Node, fx.Node] = {}

        def read(name: str, value: Any) -> fx.Node:
            if name in self._made:
                return write(*self._made[name])
            known = self._names.get(id(value))
            if known is not None:
                return reads[known]
            attributes[name] = value  # a constant of the graph's own, of no weight
            return graph.get_attr(name)

        def write(node: fx.Node, held: fx.GraphModule) -> fx.Node:
            if node not in written:
                if node.op == "get_attr":
                    name = str(node.target)
                    written[node] = read(name, getattr(held, name))
                else:
                    inputs = {each: write(each, held) for each in node.all_input_nodes}
                    written[node] = graph.node_copy(node, inputs.__getitem__)
            return written[node]

        graph.output([read(name, value) for name, value in lifted.values.items()])
        module = fx.GraphModule(attributes, graph)
        order = list(self._weights)

        def pack(tensors: Mapping[str, torch.Tensor]) -> list[Any]:
            with torch.inference_mode(False), torch.no_grad(), without_autocast():
                packed: list[Any] = module(*(tensors[name].detach() for name in order))
            return packed

        with torch.utils._python_dispatch._disable_current_modes():
            again = pack(self._weights)
            for (name, value), other in zip(lifted.values.items(), again, strict=True):
                opaque = name in self._made and _is_opaque(self._made[name][0])
                if not _same(value, other, by_content=not opaque):
                    raise PackingError(f"{name} cannot be made from the weights again")
        self._weights = {}  # their numbers are not to be kept alive
        self._made = {}
        return pack


def _is_opaque(node: fx.Node) -> bool:
    """Whether it makes a buffer that is MKL's own affair, with bytes that mean nothing."""
    return packed_ops.op_name(node) == "mkl::_mkl_reorder_linear_weight"


def _same(one: torch.Tensor, other: torch.Tensor, by_content: bool) -> bool:
    if one.layout != other.layout or one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not by_content:
        return True
    if one.layout is torch._mkldnn:  # type: ignore[attr-defined]
        one, other = one.to_dense(), other.to_dense()
    return bool(((one == other) | (one != one)).all())
