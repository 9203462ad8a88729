"""What torch.export and torch.save really write is read, and is what torch reads."""

from __future__ import annotations

import io
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from archives.hostile import entries_of, program, saved, zipped
from support import randomise
from torch import nn
from torch.export import Dim, ExportedProgram, export

import bnfx
from bnfx.archives.pickled_tensors import read_pickled
from bnfx.archives.pt2 import load_program

N = Dim("batch", min=2, max=64)
H = Dim("height", min=8, max=512)


def function(call: Callable[..., Any], wide: bool = False) -> nn.Module:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.bn = nn.BatchNorm2d(4)
            self.register_buffer("seen", torch.zeros(2))
            self.register_buffer("scale", torch.rand(4, 1, 1), persistent=False)
            if wide:
                self.register_buffer("wide", torch.arange(4.0).expand(3, 4))
            self.constant = torch.rand(4, 1, 1)
            self.frozen = nn.Parameter(torch.rand(1), requires_grad=False)
            self.tied = self.conv.weight

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return call(self, *args, **kwargs)

    return randomise(Module()).eval()


def body(m: Any, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = m.bn(m.conv(x))
    return y


def resized(m: Any, x: torch.Tensor) -> Any:
    y = nn.functional.interpolate(body(m, x), size=(x.shape[2] // 2, 5), mode="bilinear")
    z = nn.functional.pad(x, (0, (-x.shape[3]) % 8))
    return y, z, nn.functional.interpolate(y, scale_factor=1.5), x.flatten(1).shape[1]


def counted(m: Any, x: torch.Tensor, n: torch.Tensor) -> Any:
    count = n.sum().item()
    torch._check(count >= 2)
    torch._check(count < 5)
    return body(m, x)[:, :, :count].sum(), torch.nonzero(x > 0), torch.zeros(count)


def branched(m: Any, x: torch.Tensor) -> Any:
    return torch.cond(x.shape[0] > 4, lambda y: y.sin(), lambda y: y.cos(), (body(m, x),))


def stateful(m: Any, x: torch.Tensor) -> Any:
    m.seen.add_(1)
    return body(m, x) + m.seen.sum()


def texts(m: Any, x: torch.Tensor) -> Any:
    y = torch.einsum("nchw,ndhw->ncd", body(m, x), body(m, x))
    y = torch.div(nn.functional.gelu(y, approximate="tanh"), 2, rounding_mode="floor")
    return y, torch.full((2,), float("inf")), torch.linalg.norm(y), y.to(torch.float16)


def in_dictionary(m: Any, d: dict) -> Any:
    return {"y": body(m, d["x"]), "z": [d["z"], 3]}


def keyed(m: Any, x: torch.Tensor, *, k: torch.Tensor, flag: bool) -> Any:
    return body(m, x) + k if flag else x


X = torch.randn(3, 3, 16, 24)
FORMS: dict[str, tuple[Callable[..., Any], tuple, dict, Any]] = {
    "plain": (body, (X,), {}, None),
    "open batch": (body, (X,), {}, (({0: N},),)),
    "open sizes": (resized, (X,), {}, (({0: N, 2: H, 3: Dim.AUTO},),)),
    "sizes by themselves": (resized, (X,), {}, (({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},),)),
    "a size from another": (
        lambda m, x, y: body(m, x)[1:] + y[:, :1],
        (X, X[1:]),
        {},
        (({0: N + 1}, {0: N}),),
    ),
    "sizes from data": (counted, (X, torch.ones(3, dtype=torch.int64)), {}, None),
    "control flow": (branched, (X,), {}, (({0: N},),)),
    "state": (stateful, (X,), {}, None),
    "words and numbers": (texts, (X,), {}, None),
    "constants": (lambda m, x: body(m, x) * m.scale + m.constant * m.frozen, (X,), {}, None),
    "expanded": (lambda m, x: body(m, x)[0, :, :3, :4] * m.wide, (X,), {}, None),
    "tied": (lambda m, x: body(m, x) + m.tied.sum(), (X,), {}, None),
    "a dictionary": (
        in_dictionary,
        ({"x": X, "z": X},),
        {},
        None,
    ),
    "ordered": (lambda m, d: body(m, d["a b.c"]), (OrderedDict({"a b.c": X}),), {}, None),
    "nested": (lambda m, p: (body(m, p[0][1]), (p[1],)), (([X, X], X),), {}, None),
    "several outputs": (lambda m, x: tuple(torch.max(body(m, x), dim=1)), (X,), {}, None),
    "keywords": (
        lambda m, x, *, k, flag: body(m, x) + k,
        (X,),
        {"k": torch.ones(1), "flag": True},
        None,
    ),
    "numbers and words": (
        lambda m, x, n, w, o: body(m, x) * n if w == "twice" else x,
        (X, 2, "twice", None),
        {},
        None,
    ),
    "half": (lambda m, x: body(m, x).half() + torch.ones(1, dtype=torch.bfloat16), (X,), {}, None),
    "complex": (lambda m, x: torch.fft.rfft(body(m, x)) * 1j, (X,), {}, None),
    "no gradients inside": (
        lambda m, x: body(m, x) + torch.no_grad()(lambda: x.mean())(),
        (X,),
        {},
        None,
    ),
}


def same(exported: ExportedProgram, read: ExportedProgram, args: Any, kwargs: Any) -> None:
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    theirs = torch.export.load(buffer)
    assert str(read.graph) == str(theirs.graph)
    assert read.graph_signature == theirs.graph_signature
    assert read.range_constraints == theirs.range_constraints
    assert list(read.state_dict) == list(theirs.state_dict)
    for name, tensor in theirs.state_dict.items():
        own = read.state_dict[name]
        assert type(own) is type(tensor)
        assert own.requires_grad == tensor.requires_grad
        assert own.stride() == tensor.stride()
        assert torch.equal(own, tensor), name
    ours, expected = read.module()(*args, **kwargs), theirs.module()(*args, **kwargs)
    for one, other in zip(pytree.tree_leaves(ours), pytree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def reread(exported: ExportedProgram, **options: Any) -> ExportedProgram:
    buffer = io.BytesIO()
    torch.export.save(exported, buffer, **options)
    return load_program(buffer)


# What torch says when it writes, or exports, such a program.
WARNINGS = {
    "expanded": "No complete tensor found in the group:UserWarning",
    "control flow": "The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning",
}


def forms() -> Iterator[Any]:
    for form in FORMS:
        said = [pytest.mark.filterwarnings(f"ignore:{WARNINGS[form]}")] if form in WARNINGS else []
        yield pytest.param(form, marks=said)


@pytest.mark.heavy
@pytest.mark.parametrize("form", list(forms()))
def test_exports(form: str) -> None:
    """In training IR, decomposed, and folded by bnfx."""
    call, args, kwargs, shapes = FORMS[form]
    dynamic = None if shapes is None else {"args": shapes[0]}
    exported = export(function(call, form == "expanded"), args, kwargs, dynamic_shapes=dynamic)
    same(exported, reread(exported), args, kwargs)
    decomposed = exported.run_decompositions()
    same(decomposed, reread(decomposed), args, kwargs)
    folded = bnfx.fold(exported)
    same(folded, reread(folded), args, kwargs)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name",
    [
        "squeezenet1_0",
        "mobilenet_v3_small",
        "resnet18",
        "densenet121",
        "googlenet",
        "shufflenet_v2_x0_5",
        "swin_t",
        "efficientnet_b0",
        "convnext_tiny",
        "vit_b_32",
        "maxvit_t",
    ],
)
def test_torchvision(name: str) -> None:
    from torchvision import models

    size = 224 if name in ("vit_b_32", "maxvit_t") else 64
    arguments = {"init_weights": False} if name == "googlenet" else {}
    model = models.get_model(name, weights=None, **arguments).eval()
    x = torch.randn(2, 3, size, size)
    exported = export(model, (x,))
    same(exported, reread(exported), (x,), {})
    decomposed = exported.run_decompositions()
    same(decomposed, reread(decomposed), (x,), {})


def test_other_writers() -> None:
    """Extra files, the archive of torch 2.8, and the zip of torch 2.7 and before."""
    exported = program()
    args, kwargs = exported.example_inputs
    same(exported, reread(exported, extra_files={"notes.txt": "hello"}), args, kwargs)
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    entries = entries_of(buffer.getvalue())
    weights, constants = saved(exported.state_dict), saved(exported.constants)
    pickled = {
        name: data
        for name, data in entries.items()
        if not name.startswith(("data/weights", "data/constants"))
    }
    pickled |= {"data/weights/model.pt": weights, "data/constants/model.pt": constants}
    same(exported, load_program(io.BytesIO(zipped(pickled))), args, kwargs)
    old = {
        "version": b"8.8",
        "serialized_exported_program.json": entries["models/model.json"],
        "serialized_state_dict.pt": weights,
        "serialized_constants.pt": constants,
        "serialized_example_inputs.pt": saved(exported.example_inputs),
        "extra_files/notes.txt": b"hello",
    }
    same(exported, load_program(io.BytesIO(zipped(old, root=""))), args, kwargs)


VALUES: dict[str, Any] = {
    "state dict": randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).state_dict(),
    "checkpoint": {"epoch": 3, "state_dict": {"a": torch.ones(2)}, "lr": 0.1, "best": None},
    "optimizer": {"param_groups": [{"lr": 1e-3, "params": [0, 1], "betas": (0.9, 0.99)}]},
    "dtypes": [torch.ones(3).to(d) for d in (torch.int8, torch.bool, torch.bfloat16, torch.cfloat)],
    "newer dtypes": [torch.ones(3).to(d) for d in (torch.uint16, torch.float8_e5m2)],
    "views": (t := torch.rand(4, 5), t.t(), t[1:, ::2], t.expand(2, 4, 5), torch.rand(0, 3)),
    "parameters": {"w": nn.Parameter(torch.rand(3)), "f": nn.Parameter(torch.rand(2), False)},
    "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "scalars": {"n": torch.tensor(3), "size": torch.Size([2, 3]), "dtype": torch.float16},
    "large": {"n": 2**70, "text": "é" * 300, "long": list(range(2000))},
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize(
    "options", [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}]
)
def test_saved_values(name: str, options: dict) -> None:
    """By both forms of torch.save, and another protocol of pickle."""
    value = VALUES[name]
    data = saved(value, **options)
    if name == "newer dtypes" and "_use_new_zipfile_serialization" in options:
        expected: Any = value  # torch writes this file, and cannot read it
        with pytest.raises(AttributeError, match="no attribute 'dtype'"):
            torch.load(io.BytesIO(data))
    else:
        # torch's own list of opcodes ends at protocol 2; these bytes are ours.
        expected = torch.load(io.BytesIO(data), weights_only="pickle_protocol" not in options)
    read = read_pickled(io.BytesIO(data))
    theirs, ours = pytree.tree_leaves(expected), pytree.tree_leaves(read)
    for one, other in zip(ours, theirs, strict=True):
        assert type(one) is type(other)
        if isinstance(one, torch.Tensor):
            assert (one.dtype, one.stride()) == (other.dtype, other.stride())
            assert one.requires_grad == other.requires_grad
            one, other = (t if t.is_complex() else t.float() for t in (one, other))
            assert torch.equal(one, other)
        else:
            assert one == other


def test_views_share_their_memory() -> None:
    """As they did, so that nothing is stored twice."""
    whole, part = read_pickled(io.BytesIO(saved(VALUES["views"])))[:2]
    assert whole.data_ptr() == part.data_ptr()
    exported = export(function(lambda m, x: body(m, x) + m.tied.sum()), (X,))
    tied = [t.data_ptr() for name, t in reread(exported).state_dict.items() if "bias" not in name]
    assert len(set(tied)) < len(tied)


def test_files_are_read_once() -> None:
    """What was inspected is what is used: no byte of an entry is read again."""
    buffer = io.BytesIO()
    torch.export.save(program(), buffer)
    read: list[tuple[int, int]] = []

    class Counted(io.BytesIO):
        def readinto(self, into: Any) -> int:
            at = self.tell()
            count = super().readinto(into)
            read.append((at, at + count))
            return count

    load_program(Counted(buffer.getvalue()))
    read.sort()
    assert len(read) > 10
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(read))
