"""Damaged files: read, or refused in one line; nothing runs. ``make fuzz`` goes on trying."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from archives.hostile import CODE, Entries, entries_of, write_good, zipped
from archives.test_hostile import watched
from seeds import FIRST

COUNT = int(os.environ.get("BNFX_FUZZ_FILES", "60"))
LEAVES: list[Any] = [
    *(None, True, -1, 0, 1 << 62, 1 << 70, 1.5, "", "x", CODE, [], {}, [[]], {"as_int": 3}),
    *({"as_none": True}, {"as_string": CODE}, {"as_expr": {"expr_str": CODE, "hint": None}}),
    *("torch.os.mkdir", "Symbol('s0')", "../x", "'", '"', "\n", "NaN", 1e308),
]


def flip(data: bytes, random: random.Random) -> bytes:
    """One to eight bits."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 8)):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, random: random.Random) -> bytes:
    at, size = random.randrange(len(data)), random.choice([1, 2, 4, 8, 64])
    filler = random.choice([b"\0" * size, b"\xff" * size, random.randbytes(size)])
    return data[:at] + filler + data[at + size :]


def cut(data: bytes, random: random.Random) -> bytes:
    return data[: random.randrange(len(data))]


def move(data: bytes, random: random.Random) -> bytes:
    """A piece to another place."""
    start, at = sorted(random.sample(range(len(data)), 2))
    piece = data[start : start + random.randint(1, 200)]
    return data[:at] + piece + data[at:]


def damage_json(data: bytes, random: random.Random) -> bytes:
    """A value, key or item of it."""
    tree = json.loads(data)
    at = tree
    while isinstance(at, (dict, list)) and at:
        key: Any = random.choice(list(at)) if isinstance(at, dict) else random.randrange(len(at))
        below = at[key]
        if not below or not isinstance(below, (dict, list)) or random.random() < 0.1:
            action = random.randrange(4)
            if action == 0:
                del at[key]
            elif action == 1 and isinstance(at, dict):
                at[str(random.choice(LEAVES))] = at.pop(key)
            elif action == 2 and isinstance(at, list):
                at.append(below)
            else:
                at[key] = random.choice(LEAVES)
            break
        at = below
    return json.dumps(tree).encode()


def damage_entry(entries: Entries, random: random.Random) -> bytes:
    """One entry of an archive, which is sealed anew, so that its checksums are right."""
    name = random.choice(list(entries))
    if name.endswith(".json") or random.random() < 0.5:
        name = random.choice([n for n in entries if n.endswith(".json")] or [name])
    changed = dict(entries)
    if name.endswith(".json") and random.random() < 0.8:
        changed[name] = damage_json(entries[name], random)
    elif entries[name]:
        changed[name] = random.choice(WAYS[:3])(entries[name], random)
    action = random.random()
    if action < 0.05:
        del changed[name]
    elif action < 0.1:
        changed[random.choice(list(entries))] = entries[name]
    return zipped(changed)


WAYS: list[Callable[[bytes, random.Random], bytes]] = [flip, overwrite, cut, move]


def test_damaged_files(tmp_path: Path) -> None:
    write_good(tmp_path)
    names = []
    for number in range(COUNT):
        chance = random.Random(FIRST + number)
        suffix = chance.choice([".pt2", ".pt2", ".pt", ".safetensors"])
        data = (tmp_path / f"good{suffix}").read_bytes()
        inside = suffix != ".safetensors" and chance.random() < 0.7
        if inside:
            damaged = damage_entry(entries_of(data), chance)
        else:
            damaged = chance.choice(WAYS)(data, chance)
        kind = "fold" if suffix == ".pt2" and chance.random() < 0.3 else "file"
        names.append(f"{kind}{number}{suffix}")
        (tmp_path / names[-1]).write_bytes(damaged)
    rows = watched(tmp_path, names)
    assert len(rows) == COUNT
    wrong = [
        row
        for row in rows
        if row["status"] not in (0, 2)
        or len(row["stderr"].strip().splitlines()) != (1 if row["status"] else 0)
        or row["tripped"]
    ]
    assert not wrong, wrong[:5]
    assert max(row["grown"] for row in rows) < 600, "MiB"
    counts = Counter((Path(row["name"]).suffix, row["status"]) for row in rows)
    print(f"{COUNT} damaged files: {dict(counts)}")
    assert len(counts) > 3, "some of them are read, and some refused"
