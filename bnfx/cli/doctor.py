"""``bnfx doctor``: what is installed, what works here, and what to install for the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, replace

from rich import box
from rich.console import Console
from rich.table import Table

from bnfx.extras import page_packages_missing
from bnfx.torch_versions import doubt


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Args:
        area: what it belongs to.
        name: of it.
        works: whether it can be used here.
        detail: version or device; or what to do where it cannot.
    """

    area: str
    name: str
    works: bool
    detail: str


def examine() -> list[Finding]:
    """Look at this machine. Imports torch and TVM if they are there; compiles nothing."""
    findings = [Finding("Python", "python", sys.version_info >= (3, 10), sys.version.split()[0])]
    findings.append(_torch())
    if findings[-1].works:
        findings += [*_compilers(), *_engines(), *_groups(), *_cuda()]
    findings += _tvm()
    for name in ("torchvision", "timm"):
        findings.append(_package("Models", name, 'pip install "bnfx[demo]"'))
    for name in ("onnx", "onnxscript"):
        findings.append(_package("Files", name, 'pip install "bnfx[onnx]"'))
    findings.append(_package("Files", "safetensors", "pip install safetensors"))
    findings.append(_page())
    return findings


def render(findings: list[Finding], as_json: bool) -> str:
    """A table, or JSON: a list of objects with ``area``, ``name``, ``works`` and ``detail``."""
    if as_json:
        return json.dumps([asdict(finding) for finding in findings], indent=2)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("area", "name", "works", "version, or what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        row = (finding.area, finding.name, "yes" if finding.works else "no", finding.detail)
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    console = Console(file=io.StringIO(), width=120, color_system=None, legacy_windows=False)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())


def _torch() -> Finding:
    """Its version, and whether bnfx is tested with that."""
    found = _package("PyTorch", "torch", 'pip install "bnfx[torch]"')
    why = doubt(found.detail) if found.works else None
    return found if why is None else replace(found, detail=f"{found.detail}, {why}")


def _page() -> Finding:
    """Whether reports can be drawn as pages."""
    missing = page_packages_missing()
    remedy = 'pip install "bnfx[report]", Python 3.11 or newer'
    return Finding("Reports", "HTML", missing is None, remedy if missing else "bnfx explain --html")


def _package(area: str, name: str, remedy: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(area, name, False, remedy)
    try:
        return Finding(area, name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(area, name, True, "version unknown")


def _compilers() -> list[Finding]:
    """Inner compilers: the backends of torch.compile, of which Inductor needs a C++ compiler."""
    import torch

    names = set(torch.compiler.list_backends(exclude_tags=()))
    ours = "bnfx" in names
    found = [Finding("Compilers", "bnfx", ours, "found" if ours else "reinstall bnfx")]
    wanted = os.environ.get("CXX", "g++")
    compiler = shutil.which(wanted) or shutil.which("clang++")
    remedy = compiler or "install g++, or set CXX"
    found.append(Finding("Compilers", "inductor (CPU)", compiler is not None, remedy))
    found.append(_native_check())
    for name in ("eager", "aot_eager"):
        found.append(Finding("Compilers", name, name in names, "part of torch"))
    return found


def _engines() -> list[Finding]:
    """Engines for inference on CPUs, of which ``inner="auto"`` takes the fastest."""
    from bnfx.inner.base import ENGINES

    found = []
    for name, packages in ENGINES.items():
        remedy = f'pip install "bnfx[{name}]"'
        here = [_package("Engines", package, remedy) for package in packages]
        works = all(each.works for each in here)
        detail = ", ".join(f"{each.name} {each.detail}" for each in here) if works else remedy
        found.append(Finding("Engines", name, works, detail if len(here) > 1 else here[0].detail))
    return found


def _native_check() -> Finding:
    """Whether the look at the parameters before each call is C++ here; Python does it else."""
    from bnfx.native.cxx import cached_library, find_compiler
    from bnfx.native.loader import refusal

    def found(works: bool, note: str) -> Finding:
        return Finding("Compilers", "native check", works, note)

    try:
        why_not = refusal()
        if why_not:
            return found(False, why_not)
        library = cached_library()
        if library.exists():
            return found(True, str(library))
        if find_compiler() is None:
            return found(False, "install g++, or set CXX; Python checks weights until then")
        return found(False, "built in the background when a model is first called")
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        return found(False, str(error))


def _groups() -> list[Finding]:
    """Process-group backends, for statistics that ranks share."""
    import torch.distributed as dist

    if not dist.is_available():
        return [Finding("Ranks", "torch.distributed", False, "a torch built with distributed")]
    return [
        Finding("Ranks", "gloo", dist.is_gloo_available(), "CPU"),
        Finding("Ranks", "nccl", dist.is_nccl_available(), "CUDA; needs a GPU to run"),
        Finding("Ranks", "mpi", dist.is_mpi_available(), "a torch built from source with MPI"),
    ]


def _cuda() -> list[Finding]:
    import torch

    built, there = torch.version.cuda, torch.cuda.is_available()
    device = torch.cuda.get_device_name(0) if there else "no GPU, or no driver for it"
    nvcc = shutil.which("nvcc")
    return [
        Finding("CUDA", "torch's CUDA", built is not None, built or "a CUDA build of torch"),
        Finding("CUDA", "GPU", there, device),
        Finding("CUDA", "nvcc", nvcc is not None, nvcc or "the CUDA toolkit; only TVM asks for it"),
    ]


def _tvm() -> list[Finding]:
    remedy = "Python 3.10: pip install 'bnfx[relay]'; see docs/tvm_relay.md"
    if importlib.util.find_spec("tvm") is None:
        return [
            Finding("TVM", "relay", False, remedy),
            Finding("TVM", "relax", False, 'pip install "bnfx[tvm]"'),
        ]
    try:
        import tvm
    except Exception as error:  # a TVM that is installed and broken is a finding, no failure
        return [Finding("TVM", "tvm", False, f"cannot be imported: {error}")]
    version = str(tvm.__version__)
    flavours = {"relay": remedy, "relax": 'pip install "bnfx[tvm]"'}
    return [
        Finding("TVM", name, found, version if found else do)
        for name, do in flavours.items()
        for found in [importlib.util.find_spec(f"tvm.{name}") is not None]
    ]
