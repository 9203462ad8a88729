"""What results were measured on: the device, its driver, and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "triton", "torchvision", "timm")


def machine(device: str) -> dict[str, str]:
    """Facts about this machine, by what they are called."""
    found = {"measured": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}
    found |= _gpu() if device == "cuda" else {"device": platform.machine() + " CPU"}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    cudnn: Any = torch.backends.cudnn
    found |= {
        "CUDA": str(torch.version.cuda),
        "cuDNN": str(cudnn.version()),
        "Python": platform.python_version(),
        "CPU cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "bnfx": _revision(),
    }
    return found


def _gpu() -> dict[str, str]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "memory": f"{properties.total_memory / 2**30:.0f} GiB",
        "capability": f"{properties.major}.{properties.minor}",
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
    }


def _revision() -> str:
    folder = str(Path(__file__).parent)
    return _said("git", "-C", folder, "rev-parse", "--short", "HEAD")


def _said(*command: str) -> str:
    """The first line that a command prints; ``"unknown"`` where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return "unknown"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = done.stdout.splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else "unknown"
