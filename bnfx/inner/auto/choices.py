"""Which engine won for a graph, kept on disk: a name and times, and never any code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

from bnfx.inner.engines.aten_graph import signature, weights_signature
from bnfx.native.cxx import cache_folder
from bnfx.report.output import write_whole

log = logging.getLogger("bnfx")

_DISTRIBUTIONS = ("torch", "openvino", "onnxruntime")


def key_of(module: fx.GraphModule, examples: Sequence[Any], given: object) -> str:
    """A name for graph, shapes, machine, threads and versions. Two graphs that share it by accident
    share a choice, and nothing else.

    Args:
        given: the options of the engines.
    """
    machine = platform.machine(), _processor(), os.cpu_count(), torch.get_num_threads()
    versions = [_version(name) for name in _DISTRIBUTIONS]
    graph = module.code, weights_signature(module), signature(examples)
    return hashlib.sha256(repr((graph, machine, versions, given)).encode()).hexdigest()[:32]


def read(key: str) -> dict[str, float] | None:
    """Name -> milliseconds, the fastest first; ``None`` if there was no trial yet."""
    try:
        found = json.loads(_path(key).read_text())["milliseconds"]
        return dict(sorted(((str(k), float(v)) for k, v in found.items()), key=lambda kv: kv[1]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        log.info("bnfx: a choice of engine could not be read: %r", error)
        return None


def write(key: str, times: Mapping[str, float]) -> None:
    """Keep it for other processes; that it can't be kept is no failure."""
    try:
        path = _path(key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, json.dumps({"milliseconds": dict(times)}))
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        log.info("bnfx: a choice of engine could not be kept: %r", error)


def _path(key: str) -> Path:
    return cache_folder() / "engines" / f"{key}.json"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
