"""What is packed, what is refused, and what AOTAutograd's cache keeps of it."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from inner.packed_graphs import made, traced
from torch import fx
from torch._dynamo.utils import counters
from torch._guards import TracingContext, tracing
from torch._inductor import compile_fx
from torch._inductor.utils import fresh_cache
from torch._subclasses.fake_tensor import FakeTensorMode

from bnfx.inner.inductor import inductor
from bnfx.inner.late import LateInputs, captured_as, fresh
from bnfx.inner.packed.pack_program import PackingError
from bnfx.inner.packed.packed_code import PackedCode, noting, serving
from bnfx.inner.packed.packing import _compile, compile_packed, serve

ROWS, MATRIX = torch.randn(3, 8), torch.randn(5, 8)


def linear(x: Any, w: Any) -> Any:
    return (F.linear(x, w),)


@pytest.mark.parametrize("devices", [("meta",), ("cpu", "meta"), ("meta", "cpu")])
def test_weights_elsewhere_are_not_packed(devices: tuple[str, ...]) -> None:
    weights = {str(at): torch.empty(2, 2, device=each) for at, each in enumerate(devices)}
    with pytest.raises(PackingError, match="on CPU only"):
        compile_packed(traced(linear), weights, [], {})


def test_a_graph_that_needs_gradients_is_not_packed() -> None:
    module = traced(linear)
    args = [ROWS.clone().requires_grad_(), MATRIX.clone()]
    inputs = LateInputs.of(captured_as(module), args)
    inputs.fakes[0].requires_grad_()
    with inputs.context(), pytest.raises(Exception, match="gradients are needed"):
        compile_packed(fresh(module, inputs), {"w": args[1]}, args, {})


def lowered() -> tuple[fx.GraphModule, list[Any]]:
    """As AOTAutograd gives it, and fake inputs."""
    mode = FakeTensorMode()
    graph = fx.Graph()
    x, w = graph.placeholder("x"), graph.placeholder("w")
    x.meta["val"], w.meta["val"] = (mode.from_tensor(each) for each in (ROWS, MATRIX))
    turned = graph.call_function(torch.ops.aten.t.default, (w,))
    graph.output((graph.call_function(torch.ops.aten.mm.default, (x, turned)),))
    return fx.GraphModule({}, graph), [x.meta["val"], w.meta["val"]]


@pytest.mark.parametrize(
    ("at", "weight", "inputs", "examples", "is_inference", "why"),
    [
        (1, MATRIX, 3, slice(None), True, "AOTAutograd changed the inputs"),  # one of them is gone
        (0, MATRIX, 3, slice(None), True, "AOTAutograd changed the inputs"),
        (1, MATRIX, 2, slice(1), True, "AOTAutograd changed the inputs"),
        (0, MATRIX, 2, slice(None), True, "AOTAutograd changed the inputs"),  # in another order
        (1, MATRIX, 2, slice(None), False, "gradients are needed"),
        (1, MATRIX, 2, slice(None), None, "gradients are needed"),
    ],
)
def test_what_autograd_did_otherwise_is_refused(
    at: int, weight: torch.Tensor, inputs: int, examples: slice, is_inference: Any, why: str
) -> None:
    module, fakes = lowered()
    told = {} if is_inference is None else {"is_inference": is_inference}
    with pytest.raises(PackingError, match=why), tracing(TracingContext(fakes[0].fake_mode)):
        _compile({at: weight}, {"w": weight}, inputs, module, fakes[examples], **told)


def test_without_a_fake_input_there_is_nothing_to_compile_with() -> None:
    module, _ = lowered()
    with pytest.raises(PackingError, match="AOTAutograd changed the inputs"):
        _compile({1: MATRIX}, {"w": MATRIX}, 2, module, [3, 4], is_inference=True)


def compiled(weight: torch.Tensor, rows: torch.Tensor = ROWS) -> Any:
    module = traced(linear)
    inputs = LateInputs.of(captured_as(module), [rows, weight])
    pack = inductor({}, None).pack
    assert pack is not None
    with inputs.context():
        return pack(fresh(module, inputs), {"w": weight}, inputs.examples)


def test_the_cache_keeps_code_and_no_number() -> None:
    """A second compilation, as another process would do it, finds it."""
    with fresh_cache():
        counters.clear()
        for hits in (0, 1, 2):
            weight = torch.randn(5, 8)
            packed = compiled(weight)
            assert counters["aot_autograd"]["autograd_cache_hit"] == hits
            for numbers in (weight, torch.randn(5, 8)):
                (answer,) = serve(packed, [ROWS, None], packed.pack({"w": numbers}))
                assert torch.allclose(answer, ROWS @ numbers.t(), atol=1e-5)
        compiled(torch.randn(6, 8))
        assert counters["aot_autograd"]["autograd_cache_hit"] == 2


def test_code_that_the_cache_lost_is_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry whose file somebody removed."""
    from torch._inductor.output_code import CompiledFxGraph

    def gone(self: Any, constants: Any) -> str:
        raise OSError("no such file")

    with fresh_cache():
        compiled(MATRIX)
        counters.clear()
        monkeypatch.setattr(CompiledFxGraph, "after_deserialization", gone)
        packed = compiled(MATRIX)
        assert counters["aot_autograd"]["autograd_cache_hit"] == 0
    (answer,) = serve(packed, [ROWS, None], packed.pack({"w": MATRIX}))
    assert torch.allclose(answer, ROWS @ MATRIX.t(), atol=1e-5)


@pytest.mark.parametrize("times", [0, 2])
def test_a_graph_that_is_compiled_in_parts_is_not_packed(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a torch may do it that cuts graphs, or finds nothing to do."""
    real = compile_fx.compile_fx

    def in_parts(module: Any, *args: Any, **kwargs: Any) -> Any:
        for _ in range(times):
            real(copy.deepcopy(module), *args, **kwargs)
        return module.forward

    monkeypatch.setattr(compile_fx, "compile_fx", in_parts)
    with pytest.raises(PackingError, match="did not compile the graph in one part"):
        compiled(MATRIX)


def coded() -> PackedCode:
    """Gives what it is called with."""
    return PackedCode(lambda given: tuple(given), None, (0, 2), ())  # type: ignore[arg-type]


def test_a_call_is_served_with_the_constants_of_its_own() -> None:
    """Calls within calls, and in other threads."""
    code = coded()
    found: list[Any] = []

    def elsewhere() -> None:
        with serving(["theirs"]):  # type: ignore[list-item]
            found.append(code([1, 2, 3]))

    with serving(["ours"]):  # type: ignore[list-item]
        with serving(["inner"]):  # type: ignore[list-item]
            assert code([1, 2, 3]) == (1, 3, "inner")
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        with pytest.raises(ValueError, match="within"), serving([]):
            raise ValueError("within")
        assert code([1, 2, 3]) == (1, 3, "ours")
    assert found == [(1, 3, "theirs")]


def test_what_was_given_is_let_go() -> None:
    """The caller of boxed code holds a list alone, so that inputs can be freed."""
    given = [1, 2, 3]
    with serving([]):
        coded()(given)
    assert given == []
    assert coded()._boxed_call


def test_what_is_compiled_within_is_noted_there() -> None:
    with noting() as outer:
        coded().note()
        with noting() as inner:
            coded().note()
            coded().note()
        coded().note()
    assert (len(outer), len(inner)) == (2, 2)


@pytest.mark.parametrize("is_open", [False, True])
def test_inputs_are_looked_at_as_inductors_code_does(is_open: bool) -> None:
    """Where nobody guards calls (``skip_guard_eval_unsafe``), another layout is an error."""

    def graph(x: Any, y: Any, w: Any) -> Any:
        return F.linear(x, w), torch.mm(y, y)

    square = torch.randn(4, 4)
    found = made(graph, [ROWS.clone(), square, MATRIX.clone()], "w", is_open=is_open)
    assert found.is_right()
    for at, other in ((1, square.t()), (1, torch.randn(5, 5)), (0, torch.randn(8, 3).t())):
        args = list(found.args)
        args[at], found.args[at] = found.args[at], other
        if at == 0 and is_open:
            continue  # of open sizes, Inductor's own code says how it reads them
        with pytest.raises(AssertionError, match="expected size"):
            found.call()
        found.args = [ROWS.clone(), square, found.args[2]]


def numbered(count: Any, x: Any, w: Any) -> Any:
    return F.linear(x, w), count


@pytest.mark.parametrize("rows", [3, 0])
def test_inputs_that_have_no_layout(rows: int) -> None:
    """Numbers, and tensors of nothing, whose strides mean nothing."""
    found = made(numbered, [7, torch.randn(rows, 8), MATRIX.clone()], "w")
    found.args[1] = torch.randn(8, rows).t()[:rows] if rows == 0 else found.args[1]
    assert found.is_right()
