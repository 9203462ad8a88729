"""Weights packed for oneDNN that are inputs of Inductor's code: frozen's speed, live's freshness.

Inductor's freezing packs weights for oneDNN and MKL by folding constants, and bakes them in. Here
AOTAutograd sees a graph whose weights are inputs. Below it and above code generation,

1. weights become constants, and Inductor's freezing passes run;
2. what became constant is made an input again (:mod:`bnfx.inner.packed.lifted_constants`), so that
   the generated code holds no number of the model;
3. how each constant came from the weights is kept as a program of its own
   (:mod:`bnfx.inner.packed.recorder`), which packs other numbers the same way.

The code and the program are what AOTAutograd's cache keeps: no number of the model is in its key,
nor in its entry, and a process that finds one traces nothing and runs no pass.

The constants that a call is served with are those of the set of parameters that it is called with;
:func:`serve` passes them below AOTAutograd, which knows nothing of packed tensors.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import fx

from bnfx.inner.base import has_fixed_layout
from bnfx.inner.packed.lifted_constants import lift_constants
from bnfx.inner.packed.pack_program import PackingError
from bnfx.inner.packed.recorder import Recorder
from bnfx.torch_private import detect_fake_mode, tracing


@dataclass(frozen=True, eq=False)
class Packed:
    """A compiled body, and what makes its constants from weights.

    Args:
        run: takes the inputs of the graph. Weights may be anything but where the graph returns a
            view of one. Call it through :func:`serve`.
        pack: names of weights -> constants, in the order in which the body takes them.
    """

    run: Callable[..., Any]
    pack: Callable[[Mapping[str, torch.Tensor]], list[torch.Tensor]]


def serve(packed: Packed, inputs: Sequence[Any], constants: Sequence[torch.Tensor]) -> Any:
    """Call the body with ``inputs`` and ``constants``."""
    from bnfx.inner.packed.packed_code import serving

    with serving(constants):
        return packed.run(*inputs)


def compile_packed(
    module: fx.GraphModule,
    weights: Mapping[str, torch.Tensor],
    example_inputs: Sequence[Any],
    patches: Mapping[str, Any],
) -> Packed:
    """Compile a graph, or find it compiled.

    Args:
        module: may be written to.
        weights: placeholders that are to be packed, and their present numbers.
        example_inputs: of all placeholders.
        patches: Inductor's options.

    Raises:
        PackingError: if the passes did something that cannot be done again.
    """
    import torch._functorch.config
    from torch._inductor.compile_fx import compile_fx

    from bnfx.inner.packed.packed_code import noting

    if any(tensor.device.type != "cpu" for tensor in weights.values()):
        raise PackingError("oneDNN packs weights on CPU only")
    placeholders = [node.name for node in module.graph.find_nodes(op="placeholder")]
    at = {placeholders.index(name): tensor.detach() for name, tensor in weights.items()}
    recorded = dict(zip(weights, at.values(), strict=True))
    # AOTAutograd's cache knows graphs by what they are, and by their attributes.
    vars(module)["bnfx_packing"] = f"{_sources()} {sorted(at)} {list(weights)}"
    # A packed tensor has no strides that could be asserted; of the others, PackedCode does.
    chosen = {**patches, "size_asserts": False}
    chosen.pop("freezing", None)
    with noting() as codes, torch._functorch.config.patch(bundled_autograd_cache=True):
        run: Any = compile_fx(
            module,
            list(example_inputs),
            inner_compile=functools.partial(_compile, at, recorded, len(placeholders)),
            config_patches=chosen,
        )
    if len(codes) != 1:
        raise PackingError("Inductor did not compile the graph in one part")
    return Packed(run, codes[0].program)


def _compile(
    at: Mapping[int, torch.Tensor],
    recorded: Mapping[str, torch.Tensor],
    inputs: int,
    gm: fx.GraphModule,
    examples: Sequence[Any],
    **rest: Any,
) -> Any:
    """In place of Inductor's own, below AOTAutograd.

    Args:
        at: where weights are among the inputs of the graph that AOTAutograd was given.
        recorded: name -> weight, the same tensors.
        inputs: how many inputs that graph has.
        gm: what AOTAutograd made of it.
        examples: fake inputs of ``gm``.
        rest: what Inductor is told beside.
    """
    from torch._inductor import config, freezing
    from torch._inductor.compile_fx import compile_fx_inner, fake_tensor_prop
    from torch._inductor.constant_folding import replace_node_with_constant
    from torch._inductor.freezing import convert_conv_weights_to_channels_last, freeze
    from torch._inductor.graph import GraphLowering

    from bnfx.inner.packed.packed_code import PackedCode

    placeholders = gm.graph.find_nodes(op="placeholder")
    before = len(placeholders) - inputs  # tensors that the graph holds come first
    mode = detect_fake_mode(examples)
    if before < 0 or len(placeholders) != len(examples) or mode is None:
        raise PackingError("AOTAutograd changed the inputs of the graph")
    if not rest.get("is_inference"):
        raise PackingError("gradients are needed")
    own = [getattr(gm, str(node.target), None) for node in gm.graph.find_nodes(op="get_attr")]
    recorder = Recorder(vars(freezing)["constant_fold"], recorded, own)
    with (
        config.patch(freezing=True, freezing_discard_parameters=False),
        mock.patch.object(freezing, "constant_fold", recorder.here_only()),
        mock.patch.object(mode, "allow_non_fake_inputs", True),
    ):
        channels_last = GraphLowering.decide_layout_opt(gm, is_inference=True)
        if channels_last:
            fake_tensor_prop(gm, examples)
            convert_conv_weights_to_channels_last(gm)
        for position, weight in at.items():
            node = placeholders[before + position]
            if tuple(node.meta["val"].shape) != tuple(weight.shape):
                raise PackingError("AOTAutograd changed the inputs of the graph")
            replace_node_with_constant(gm, node, weight)
        gm.recompile()
        taken = [i for i in range(len(placeholders)) if i - before not in at]
        given = [examples[i] for i in taken]
        with tracing(None):  # it would take the parameters that Dynamo knows for constants
            gm, _ = freeze(gm, gm, given)
        output = gm.graph.output_node()
        results: Any = output.args[0]
        output.meta["user_visible_output_idxs"] = [
            index for index, node in enumerate(results) if isinstance(node, fx.Node)
        ]
        lifted = lift_constants(gm, given)
        program = recorder.program(lifted)
        rest |= {"static_input_idxs": [], "layout_opt": channels_last}
        code = compile_fx_inner(gm, [*given, *lifted.examples], **rest)
    layouts = tuple(
        (i, tuple(example.shape), example.stride())
        for i, example in ((i, examples[i]) for i in taken)
        if isinstance(example, torch.Tensor) and has_fixed_layout(example)
    )
    packed = PackedCode(code, program, tuple(taken), layouts)
    packed.note()
    return packed


@functools.cache
def _sources() -> str:
    """A digest of the code that decides what becomes of a graph."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
