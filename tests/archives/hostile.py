"""Files that would run code, or fill memory, if they were loaded as torch loads them.

Each is made here, and its code does no more than trip the canary. Written from torch's sources
before bnfx's reader was.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

CODE = "__import__('os').mkdir('canary')"
ROOT = "archive/"
MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
INPUTS = "data/sample_inputs/model.pt"
Entries = dict[str, bytes]
Change = Callable[[Entries], None]


class Evil:
    def __reduce__(self) -> tuple:
        return (os.mkdir, ("canary",))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.register_buffer("k", torch.ones(4, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor, more: dict) -> tuple:
        y = self.bn(self.conv(x)) * self.k + more["a"]
        return y.reshape(y.shape[0] // 1, -1), y.mean()


def program() -> torch.export.ExportedProgram:
    batch = torch.export.Dim("N", min=2, max=64)
    inputs = (torch.randn(3, 3, 8, 8), {"a": torch.randn(1)})
    shapes = ({0: batch}, {"a": None})
    return torch.export.export(Net().eval(), inputs, dynamic_shapes=shapes)


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def entries_of(data: bytes) -> Entries:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def zipped(entries: Entries, root: str = ROOT, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(root + name, data)
    return buffer.getvalue()


def edit(name: str, change: Callable[[Any], None]) -> Change:
    """``change`` the JSON of an entry."""

    def apply(entries: Entries) -> None:
        data = json.loads(entries[name])
        change(data)
        entries[name] = json.dumps(data).encode()

    return apply


def in_graph(change: Callable[[dict], None]) -> Change:
    return edit(MODEL, lambda data: change(data["graph_module"]["graph"]))


def put(name: str, data: bytes) -> Change:
    return lambda entries: entries.update({name: data})


def expression(text: str) -> Change:
    def change(graph: dict) -> None:
        for meta in graph["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = text

    return in_graph(change)


def node(**fields: Any) -> Change:
    return in_graph(lambda graph: graph["nodes"][0].update(fields))


def renamed(old: str, new: str) -> Change:
    """Everywhere, a name of the program."""

    def apply(entries: Entries) -> None:
        text = entries[MODEL].decode().replace(f'"{old}"', json.dumps(new))
        entries[MODEL] = text.encode()

    return apply


def renamed_weight(old: str, new: str) -> Change:
    """In the program, and in the table of weights."""

    def apply(entries: Entries) -> None:
        renamed(old, new)(entries)
        entries[WEIGHTS] = entries[WEIGHTS].replace(f'"{old}"'.encode(), json.dumps(new).encode())

    return apply


def payload(config: str, **fields: Any) -> Change:
    def change(data: dict) -> None:
        next(iter(data["config"].values())).update(fields)

    return edit(config, change)


def spec(text: dict | str, which: str = "in_spec") -> Change:
    value = text if isinstance(text, str) else json.dumps([1, text])

    def change(data: dict) -> None:
        data["graph_module"]["module_call_graph"][0]["signature"][which] = value

    return edit(MODEL, change)


def tree(kind: str, context: str) -> dict:
    leaf = {"type": None, "context": None, "children_spec": []}
    return {"type": kind, "context": context, "children_spec": [leaf]}


ENUM = json.dumps([{"__enum__": True, "fqn": "this:s", "name": "X"}])
FACTORY = json.dumps(
    {"default_factory_module": "tabnanny", "default_factory_name": "x", "dict_context": ["a"]}
)
_SPAN = [{"as_int": 1 << 20}, {"as_int": 1 << 20}]


def opaque(prefix: str, data: bytes) -> Change:
    def apply(entries: Entries) -> None:
        config = json.loads(entries[CONSTANTS])
        entry = {"path_name": f"{prefix}0", "is_param": False, "use_pickle": True}
        config["config"]["x"] = {**entry, "tensor_meta": None}
        entries[CONSTANTS] = json.dumps(config).encode()
        entries[f"data/constants/{prefix}0"] = data

    return apply


def pickled_weight(config: str, folder: str) -> Change:
    def apply(entries: Entries) -> None:
        payload(config, use_pickle=True)(entries)
        name = next(iter(json.loads(entries[config])["config"].values()))["path_name"]
        entries[folder + name] = saved(Evil())

    return apply


def doubled_list(times: int) -> list:
    value: list = []
    for _ in range(times):
        value = [value, value]
    return value


def endless() -> list:
    value: list = []
    value.append(value)
    return value


CHANGES: dict[str, Change] = {
    "opaque constant": opaque("opaque_obj_", pickle.dumps(Evil())),
    "custom constant": opaque("custom_obj_", pickle.dumps(Evil())),
    "opaque by another name": opaque("tensor_9/../opaque_obj_", pickle.dumps(Evil())),
    "pickled weight": pickled_weight(WEIGHTS, "data/weights/"),
    "pickled constant": pickled_weight(CONSTANTS, "data/constants/"),
    "sample inputs": put(INPUTS, saved(Evil())),
    "sample inputs, bare pickle": put(INPUTS, pickle.dumps(Evil())),
    "sample inputs, key of code": put(
        INPUTS, saved(((torch.ones(3, 3, 8, 8), {f"a'] or {CODE} or L['": torch.ones(1)}), {}))
    ),
    "sample inputs, doubling": put(INPUTS, saved(((doubled_list(60),), {}))),
    "sample inputs, a tensor": put(INPUTS, saved(torch.ones(2))),
    "sample inputs, in itself": put(INPUTS, saved(((endless(),), {}))),
    "old weights": put("data/weights/model.pt", saved({"a": Evil()})),
    "old constants": put("data/constants/model.pt", saved({"a": Evil()})),
    "library": put("data/aotinductor/model/x.so", b"\x7fELF"),
    "library, dotted": put("data/aotinductor/../../x.so", b"\x7fELF"),
    "library in extra": put("extra/../data/aotinductor/model/x.so", b"\x7fELF"),
    "executorch": put("data/executorch/x", b"x"),
    "second model": lambda e: e.update({"models/other.json": e[MODEL]}),
    "script": put("code/__torch__.py", b"x"),
    "absolute name": put("/etc/canary", b"x"),
    "backslash name": put("data\\..\\x", b"x"),
    "expression": expression(CODE),
    "expression in a call": expression(f"Add(Integer(1), {CODE})"),
    "expression in a symbol": expression(f'Symbol("{CODE}")'),
    "expression, lambda": expression("(lambda: 1)()"),
    "expression, attribute": expression("Integer.__class__"),
    "expression, subscript": expression("[].__class__.__base__.__subclasses__()[0]"),
    "expression, power": expression("Pow(Integer(9), Integer(999999999))"),
    "expression, power tower": expression(
        "Pow(Pow(Pow(Integer(9), Integer(64)), Integer(64)), Integer(64))"
    ),
    "expression, shift": expression("LShift(Integer(1), Integer(99999999999))"),
    "expression, deep": expression("Add(" * 5000 + "Integer(1)" + ")" * 5000),
    "expression, long": expression("Add(" + "Integer(1), " * 9999 + "Integer(1))"),
    "expression, digits": expression(f"Integer({'9' * 5000})"),
    "expression, evalf": expression("Float('1', precision=99999999)"),
    "expression, function": expression("factorial(Integer(99999999))"),
    "expression, undefined": expression("Function('canary')(1)"),
    "expression, comment": expression("Integer(1) #"),
    "symbol counter": edit(
        MODEL, lambda d: d["range_constraints"].update(u999999999={"min_val": 0, "max_val": 1})
    ),
    "guard": edit(MODEL, lambda d: d.update(guards_code=[CODE])),
    "guard, or": edit(MODEL, lambda d: d.update(guards_code=[f"L['x'].size()[0] > 1 or {CODE}"])),
    "guard, string": edit(
        MODEL, lambda d: d.update(guards_code=["L['x\" + " + CODE + " + \"'].size()[0] > 1"])
    ),
    "guard, end": edit(MODEL, lambda d: d.update(guards_code=[f"1)\n  {CODE}\n  (1"])),
    "guard, walrus": edit(MODEL, lambda d: d.update(guards_code=[f"(y := {CODE})"])),
    "guard, f-string": edit(MODEL, lambda d: d.update(guards_code=[f'f"{{{CODE}}}" == 1'])),
    "guard, lambda": edit(MODEL, lambda d: d.update(guards_code=["(lambda: canary)()"])),
    "guard, attribute": edit(MODEL, lambda d: d.update(guards_code=["L['x'].__class__ == 1"])),
    "guard, power": edit(MODEL, lambda d: d.update(guards_code=["9 ** 9 ** 9 > 1"])),
    "guard, deep": edit(MODEL, lambda d: d.update(guards_code=["(" * 9000 + "1" + ")" * 9000])),
    "guard, minus": edit(MODEL, lambda d: d.update(guards_code=["-" * 19000 + "1"])),
    "target os": node(target="torch.os.mkdir"),
    "target exec": node(target="torch.hub.load"),
    "target load": node(target="torch.load"),
    "target pickle": node(target="torch.serialization.pickle.loads"),
    "target operator": node(target="_operator.methodcaller"),
    "target attrgetter": node(target="_operator.attrgetter"),
    "target operator, call": node(target="_operator.call"),
    "target math": node(target="math.factorial"),
    "target other library": node(target="torch.ops.inductor.resize_storage_bytes_.default"),
    "target load_library": node(target="torch.ops.load_library"),
    "target from_file": node(target="torch.ops.aten.from_file.default"),
    "target print": node(target="torch.ops.aten._print.default"),
    "target set_": node(target="torch.ops.aten.set_.source_Storage"),
    "target dotted": node(target="torch.ops.aten.conv2d.default.__class__"),
    "target dunder": node(target="torch.ops.aten.__class__.__init__"),
    "target triton": node(target="torch.ops.higher_order.triton_kernel_wrapper_functional"),
    "target torchbind": node(target="torch.ops.higher_order.call_torchbind"),
    "target extension": node(target="#canary:x"),
    "target word": node(target="canary"),
    "operator argument": in_graph(
        lambda g: g["nodes"][0]["inputs"].append(
            {"name": "f", "arg": {"as_operator": "torch.os.mkdir"}, "kind": 1}
        )
    ),
    "custom object": in_graph(
        lambda g: g["custom_obj_values"].update(x={"name": "x", "class_fqn": "__torch__.x"})
    ),
    "custom object input": edit(
        MODEL,
        lambda d: d["graph_module"]["signature"]["input_specs"].append(
            {"custom_obj": {"arg": {"name": "x", "class_fqn": "y"}, "custom_obj_name": "x"}}
        ),
    ),
    "name of code": renamed("x", f"x={CODE}"),
    "name with newline": renamed("x", f"x\n    {CODE}\n    x"),
    "name, keyword": renamed("x", "lambda"),
    "parameter of code": renamed("conv.weight", f'a") or {CODE} or getattr(self, "b'),
    "name, self": renamed("x", "self"),
    "name, torch": renamed("x", "torch"),
    "name, debug": renamed("x", "__debug__"),
    "name, twice": renamed("conv2d", "x"),
    "output name, torch": renamed("conv2d", "torch"),
    "output name, getattr": renamed("conv2d", "getattr"),
    "parameter, class": renamed_weight("conv.weight", "__class__.weight"),
    "parameter, method": renamed_weight("conv.weight", "forward"),
    "parameter, of a method": renamed_weight("conv.weight", "forward.weight"),
    "parameter, tables": renamed_weight("conv.weight", "_parameters.weight"),
    "parameter, globals": renamed_weight("conv.weight", "forward.__globals__.weight"),
    "parameter, no name": renamed_weight("conv.weight", ""),
    "buffer, method": renamed_weight("bn.running_mean", "state_dict"),
    "argument name": edit(
        MODEL,
        lambda d: d["graph_module"]["module_call_graph"][0]["signature"].update(
            forward_arg_names=["x", f"more={CODE}"]
        ),
    ),
    "module name": edit(
        MODEL, lambda d: d["graph_module"]["module_call_graph"][0].update(fqn=f"a {CODE}")
    ),
    "input of code": in_graph(lambda g: g["inputs"].append({"as_string": f"' + {CODE} + '"})),
    "constant input of code": edit(
        MODEL,
        lambda d: d["graph_module"]["signature"]["input_specs"].append(
            {"constant_input": {"name": "c", "value": {"as_string": f"' + {CODE} + '"}}}
        ),
    ),
    "stack trace of code": in_graph(
        lambda g: g["nodes"][0]["metadata"].update(
            stack_trace=f'File "a.py", line 1, in f\n    x = 1\r    {CODE}\r'
        )
    ),
    "module stack of code": in_graph(
        lambda g: g["nodes"][0]["metadata"].update(nn_module_stack=f"a,b,c\r{CODE}")
    ),
    "tree, enum": spec(tree("builtins.dict", ENUM)),
    "tree, enum in out": spec(tree("builtins.dict", ENUM), "out_spec"),
    "tree, defaultdict": spec(tree("collections.defaultdict", FACTORY)),
    "tree, key of code": spec(tree("builtins.dict", json.dumps([f"a'] or {CODE} or x['"]))),
    "tree, unknown": spec(tree("torch.nn.Module", "null")),
    "tree, deep": spec(
        "[1, "
        + '{"type": "builtins.list", "context": "null", "children_spec": [' * 3000
        + "]}" * 3000
        + "]"
    ),
    "tree, no JSON": spec(CODE),
    "verifier": edit(MODEL, lambda d: d.update(verifiers=["canary"])),
    "unknown field": edit(MODEL, lambda d: d.update(canary=1)),
    "unknown node field": node(canary=1),
    "two kinds in one": in_graph(
        lambda g: g["inputs"][0].update({"as_custom_obj": {"name": "x", "class_fqn": "x"}})
    ),
    "device": in_graph(
        lambda g: next(iter(g["tensor_values"].values()))["device"].update(type="privateuseone")
    ),
    "dtype": in_graph(lambda g: next(iter(g["tensor_values"].values())).update(dtype=99)),
    "layout": in_graph(lambda g: next(iter(g["tensor_values"].values())).update(layout=1)),
    "a number for a list": edit(MODEL, lambda d: d["graph_module"].update(graph=3)),
    "weight elsewhere": payload(WEIGHTS, path_name="../../model.json"),
    "weight absolute": payload(WEIGHTS, path_name="/etc/passwd"),
    "weight of nothing": payload(WEIGHTS, path_name="weight_99"),
    "weight beyond its bytes": edit(
        WEIGHTS,
        lambda d: next(iter(d["config"].values()))["tensor_meta"].update(
            storage_offset={"as_int": 1 << 40}
        ),
    ),
    "weight longer than its bytes": edit(
        WEIGHTS,
        lambda d: next(iter(d["config"].values()))["tensor_meta"].update(
            sizes=_SPAN, strides=[{"as_int": 1 << 20}, {"as_int": 1}]
        ),
    ),
    "weight expanded": edit(
        WEIGHTS,
        lambda d: next(iter(d["config"].values()))["tensor_meta"].update(
            sizes=_SPAN, strides=[{"as_int": 0}, {"as_int": 0}]
        ),
    ),
    "weight negative": edit(
        WEIGHTS,
        lambda d: next(iter(d["config"].values()))["tensor_meta"].update(
            storage_offset={"as_int": -4}
        ),
    ),
    "weight symbolic": edit(
        WEIGHTS,
        lambda d: next(iter(d["config"].values()))["tensor_meta"].update(
            storage_offset={"as_expr": {"expr_str": CODE, "hint": None}}
        ),
    ),
    "empty weight, large size": lambda e: (
        edit(
            WEIGHTS,
            lambda d: next(iter(d["config"].values()))["tensor_meta"].update(
                sizes=[{"as_int": 1 << 40}], strides=[{"as_int": 1}]
            ),
        )(e),
        e.update({"data/weights/weight_0": b""}),
    )[0],
    "big-endian": put("byteorder", b"big"),
    "another format": put("archive_format", b"pt3"),
    "another version": put("archive_version", b"1"),
    "deep JSON": put(MODEL, b"[" * 100_000 + b"]" * 100_000),
    "wide JSON": put(MODEL, b"[" + b"[]," * 5_000_000 + b"[]]"),
    "no JSON": put(MODEL, b"canary"),
    "not UTF-8": put(MODEL, b"\xff\xfe"),
    "huge number": put(MODEL, b"[" + b"9" * 10_000 + b"]"),
}


def doubled(entries: Entries) -> bytes:
    data = bytearray(zipped({**entries, "models/mode2.json": entries[MODEL]}))
    return bytes(data.replace(b"models/mode2.json", b"models/model.json"))


def directory(data: bytes | bytearray) -> tuple[int, int]:
    """Where the table of contents and its end record start; entries may be archives, too."""
    end = data.rindex(b"PK\5\6")
    (start,) = struct.unpack_from("<I", data, end + 16)
    assert data[start : start + 4] == b"PK\1\2"
    return start, end


def overlapping(entries: Entries) -> bytes:
    """The second entry of the table of contents lies where the first one does."""
    data = bytearray(zipped(entries))
    first, _ = directory(data)
    second = data.index(b"PK\1\2", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(data)


def flagged(entries: Entries, offset: int, value: int) -> bytes:
    data = bytearray(zipped(entries))
    struct.pack_into("<H", data, directory(data)[0] + offset, value)
    return bytes(data)


def far_away(entries: Entries, offset: int) -> bytes:
    """The first entry lies at ``offset``, a number of 64 bits."""
    data = bytearray(zipped(entries))
    first, end = directory(data)
    names, extra = struct.unpack_from("<HH", data, first + 28)
    struct.pack_into("<I", data, first + 42, 0xFFFFFFFF)
    struct.pack_into("<H", data, first + 30, extra + 12)
    at = first + 46 + names + extra
    data[at:at] = struct.pack("<HHQ", 1, 8, offset)
    (size,) = struct.unpack_from("<I", data, end + 12 + 12)
    struct.pack_into("<I", data, end + 12 + 12, size + 12)
    return bytes(data)


def before_the_file(entries: Entries) -> bytes:
    """The table of contents claims to lie 7 bytes further on, which moves entries to -7."""
    data = bytearray(zipped(entries))
    start, end = directory(data)
    struct.pack_into("<I", data, end + 16, start + 7)
    return bytes(data)


def linked(entries: Entries) -> bytes:
    info = zipfile.ZipInfo(ROOT + "extra/link")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    buffer = io.BytesIO(zipped(entries))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def bomb(entries: Entries) -> bytes:
    zeros = {**entries, "data/weights/weight_0": bytes(1 << 30)}
    return zipped(zeros, method=zipfile.ZIP_DEFLATED)


def two_roots(entries: Entries) -> bytes:
    buffer = io.BytesIO(zipped(entries))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("other/models/model.json", b"{}")
    return buffer.getvalue()


def many(entries: Entries) -> bytes:
    return zipped({**entries, **{f"extra/{i}": b"" for i in range(20_000)}, "canary/x": b""})


def far_too_many(entries: Entries) -> bytes:
    """A table of contents of 16 MiB."""
    name = "extra/" + "x" * 300
    return zipped({**entries, **{f"{name}{i}": b"" for i in range(45_000)}})


ARCHIVES: dict[str, Callable[[Entries], bytes]] = {
    "duplicate": doubled,
    "overlapping": overlapping,
    "encrypted": lambda e: flagged(e, 8, 1),
    "another method": lambda e: flagged(e, 10, 12),
    "far away": lambda e: far_away(e, (1 << 64) - 1),
    "beyond the file": lambda e: far_away(e, 1 << 62),
    "before the file": before_the_file,
    "symbolic link": linked,
    "bomb": bomb,
    "deflated": lambda e: zipped(e, method=zipfile.ZIP_DEFLATED),
    "two folders": two_roots,
    "no folder": lambda e: zipped(e, root=""),
    "folder outside": lambda e: zipped(e, root="../x/"),
    "many": many,
    "far too many": far_too_many,
    "empty": lambda e: b"",
    "no zip": lambda e: b"canary" * 100,
    "only an end": lambda e: b"PK\5\6" + bytes(18),
    "long comment": lambda e: zipped(e)[:-2] + struct.pack("<H", 60_000) + b"PK\5\6" * 15_000,
    "a damaged weight": lambda e: zipped(e).replace(
        e["data/weights/weight_0"], b"\7" * len(e["data/weights/weight_0"]), 1
    ),
    "old zip with code": lambda e: zipped(
        {
            "version": b"8.20",
            "serialized_exported_program.json": e[MODEL],
            "serialized_state_dict.pt": saved({"a": Evil()}),
            "serialized_constants.pt": saved({}),
            "serialized_example_inputs.pt": saved(((), {})),
        },
        root="",
    ),
}


class Calls:
    """A pickle that calls what it names."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.reduced


def with_pickle(data: bytes) -> bytes:
    entries = entries_of(saved({"0.weight": torch.ones(2)}))
    return zipped({**entries, "data.pkl": data})


def pickled_tensor() -> bytes:
    """The part of a pickle that is a tensor of two numbers."""
    whole = entries_of(saved(torch.ones(2)))["data.pkl"]
    return whole[2:-1]


def doubling(times: int, leaf: bytes = b"]") -> bytes:
    """A pair of pairs of pairs: a few bytes, and 2**times leaves for whoever walks it."""
    levels = (b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(times))
    return b"\x80\2" + leaf + b"q\0" + b"".join(levels)


def lying_about_length() -> bytes:
    """A tensor of 2**20 numbers, of which 2 are there."""
    entries = entries_of(saved({"0.weight": torch.ones(2)}))
    pickled = entries["data.pkl"]
    at = pickled.index(b"q\x05(h\x03") if b"q\x05(h\x03" in pickled else pickled.index(b"K\x02")
    changed = pickled[:at] + pickled[at:].replace(b"K\x02", b"J\x00\x00\x10\x00")
    return zipped({**entries, "data.pkl": changed})


def old_form(value: Any) -> bytes:
    return saved(value, _use_new_zipfile_serialization=False)


def old_form_of_a_giant() -> bytes:
    data = old_form({"a": torch.ones(77)})
    return data.replace(b"K\x4d", b"\x8a\x06" + (1 << 42).to_bytes(6, "little"))


CHECKPOINTS: dict[str, Callable[[], bytes]] = {
    "code": lambda: saved({"0.weight": Evil()}),
    "code, old form": lambda: old_form({"0.weight": Evil()}),
    "code, bare": lambda: pickle.dumps(Evil()),
    "code as key": lambda: with_pickle(pickle.dumps({"a": Evil()}, 2)),
    "getattr": lambda: with_pickle(pickle.dumps(Calls(getattr, "torch", "upper"), 2)),
    "eval": lambda: with_pickle(pickle.dumps(Calls(eval, CODE), 2)),
    "torch.load": lambda: with_pickle(pickle.dumps(Calls(torch.load, "canary"), 2)),
    "defaultdict": lambda: with_pickle(pickle.dumps(defaultdict(list), 2)),
    "instance": lambda: with_pickle(b"(ios\nmkdir\nX\6\0\0\0canaryo."),
    "inst": lambda: with_pickle(b"(X\6\0\0\0canaryios\nmkdir\n."),
    "extension": lambda: with_pickle(b"\x80\x02\x82\x01."),
    "memo bomb": lambda: with_pickle(b"\x80\x02}r\xff\xff\xff\x7f."),
    "text number": lambda: with_pickle(b"I" + b"9" * 100_000 + b"\n."),
    "long text": lambda: with_pickle(b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\x00."),
    "no stop": lambda: with_pickle(b"\x80\x02}"),
    "persistent text": lambda: with_pickle(b"Pcanary\n."),
    "persistent number": lambda: with_pickle(b"\x80\x02K\x01Q."),
    "dictionary with attributes": lambda: with_pickle(b"\x80\x02K\x01}b."),
    "copied dictionary": lambda: with_pickle(b"\x80\x02ccollections\nOrderedDict\n]\x85R."),
    "a tensor's method": lambda: with_pickle(
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00)))R."
    ),
    "doubling, a name": lambda: with_pickle(doubling(60) + b"Q."),
    "doubling, a call": lambda: with_pickle(doubling(60) + b")R."),
    "doubling, a global": lambda: with_pickle(doubling(60) + b"X\1\0\0\0a\x93."),
    "doubling, a key": lambda: with_pickle(b"\x80\2}" + doubling(60, b")")[2:] + b"K\1s."),
    "doubling, an item": lambda: with_pickle(b"\x80\2\x8f(" + doubling(60, b")")[2:] + b"\x90."),
    "doubling, a value": lambda: with_pickle(b"\x80\2}X\1\0\0\0a" + doubling(60)[2:] + b"s."),
    "a large number as key": lambda: with_pickle(
        b"\x80\2}\x8b" + struct.pack("<i", 5000) + b"\x7f" * 5000 + pickled_tensor() + b"s."
    ),
    "many dimensions": lambda: with_pickle(
        pickled_tensor().replace(b"K\2\x85", b"(" + b"J\xff\xff\xff\x7f" * 200_000 + b"t") + b"."
    ),
    "many sets": lambda: with_pickle(b"\x80\2(" + b"\x8f" * 4_000_000 + b"l."),
    "lying about length": lying_about_length,
    "a giant": old_form_of_a_giant,
    "script": lambda: zipped({"code/__torch__.py": b"", "constants.pkl": b"", "data.pkl": b"N."}),
    "bomb": lambda: zipped(
        {"data.pkl": b"N.", "data/0": bytes(1 << 29)}, method=zipfile.ZIP_DEFLATED
    ),
    "bad name": lambda: zipped({"data.pkl": b"N."}).replace(
        b"archive/", b"\xff\xfe\xfd\xff\xff\xff\xff/"
    ),
    "bad zip": lambda: b"PK\3\4" + b"canary" * 50,
    "keys that are numbers": lambda: saved({1: torch.ones(2), "a": torch.ones(1)}),
    "keys that are tuples": lambda: saved({("a",): torch.ones(2)}),
    "no key": lambda: saved({None: torch.ones(2)}),
    "complex values": lambda: saved(
        OrderedDict((k, v * (1 + 1j) if v.is_floating_point() else v) for k, v in state().items())
    ),
    "half of complex values": lambda: saved({**state(), "1.running_mean": torch.ones(4) * 1j}),
    "sparse": lambda: saved({"0.weight": torch.eye(3).to_sparse()}),
    "a list": lambda: saved([1, 2]),
    "a tensor": lambda: saved(torch.ones(2)),
    "nothing": lambda: b"",
}
SAFETENSORS: dict[str, Callable[[], bytes]] = {
    "huge header": lambda: struct.pack("<Q", 1 << 60) + b"{}",
    "deep header": lambda: struct.pack("<Q", 100_000) + b"[" * 100_000,
    "not UTF-8": lambda: struct.pack("<Q", 2) + b"\xff\xff",
    "lying": lambda: header(
        {"0.weight": {"dtype": "F32", "shape": [1 << 50], "data_offsets": [0, 4]}}
    ),
    "overlap": lambda: header(
        {n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}
    ),
    "dtype": lambda: header({"a": {"dtype": "canary", "shape": [1], "data_offsets": [0, 4]}}),
    "complex": lambda: safetensors.torch.save({**state(), "1.bias": torch.ones(4) * 1j}),
    "empty": lambda: b"",
}


def header(data: dict) -> bytes:
    text = json.dumps(data).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4)


def state() -> dict[str, torch.Tensor]:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).state_dict()


def write_good(folder: Path) -> Entries:
    """``good.pt2``, ``fold.pt2``, ``good.pt``, ``good.safetensors``; the entries of the first."""
    torch.export.save(program(), folder / "good.pt2")
    (folder / "fold.pt2").write_bytes((folder / "good.pt2").read_bytes())
    torch.save(state(), folder / "good.pt")
    safetensors.torch.save_file(state(), folder / "good.safetensors")
    return entries_of((folder / "good.pt2").read_bytes())


def write_all(folder: Path) -> dict[str, str]:
    """Every hostile file; its name -> what it is."""
    entries = write_good(folder)
    made: dict[str, tuple[str, bytes]] = {}
    for what, change in CHANGES.items():
        changed = dict(entries)
        change(changed)
        assert changed != entries, what
        made[f"program{len(made)}.pt2"] = what, zipped(changed)
    for what, build in ARCHIVES.items():
        made[f"archive{len(made)}.pt2"] = f"archive: {what}", build(entries)
    for what, make in CHECKPOINTS.items():
        made[f"state{len(made)}.pt"] = f"checkpoint: {what}", make()
    for what, make in SAFETENSORS.items():
        made[f"state{len(made)}.safetensors"] = f"safetensors: {what}", make()
    for name, (_, data) in made.items():
        (folder / name).write_bytes(data)
    return {name: what for name, (what, _) in made.items()}
