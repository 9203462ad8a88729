"""Which tests are to kill the mutants of which files."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
HAS_TORCH = find_spec("torch") is not None


@dataclass(frozen=True)
class Area:
    """Files whose guards the same tests reach.

    Args:
        sources: files and folders.
        tests: files and folders; which of them reach a guard is found out.
        torch: whether they run where torch is; Relay's have a Python of their own, without.
    """

    sources: tuple[str, ...]
    tests: tuple[str, ...]
    torch: bool = True


AREAS: dict[str, Area] = {
    "rules": Area(
        (
            "passes/rules",
            "passes/crossing",
            "passes/algebra",
            "passes/values.py",
            "passes/graph.py",
            "passes/pipeline.py",
        ),
        (
            "tests/rules",
            "tests/crossing",
            "tests/algebra",
            "tests/proofs/test_slice.py",
            "tests/test_graph.py",
            "tests/test_pipeline.py",
            "tests/test_values.py",
            "tests/test_every_refusal.py",
        ),
    ),
    "weights": Area(("bnfx/weights",), ("tests/weights",)),
    "first_answer": Area(("bnfx/folding/first_answer.py",), ("tests/backend", "tests/folding")),
    "folding": Area(
        (
            "bnfx/folding/capturing",
            "bnfx/folding/modules",
            "bnfx/folding/programs",
            "bnfx/folding/example_shapes.py",
            "bnfx/folding/explain.py",
            "bnfx/folding/fold.py",
            "bnfx/folding/given.py",
            "bnfx/folding/global_state.py",
            "bnfx/folding/graph_form.py",
            "bnfx/folding/keep.py",
            "bnfx/folding/open_sizes.py",
            "bnfx/folding/verify.py",
        ),
        ("tests/folding", "tests/export"),
    ),
    "packed": Area(("bnfx/inner/packed",), ("tests/inner",)),
    "kept_memory": Area(
        ("bnfx/inner/kept_memory.py",),
        ("tests/inner/test_kept_memory.py", "tests/inner/test_output_places.py"),
    ),
    "direct": Area(("bnfx/direct",), ("tests/direct",)),
    "fx": Area(
        ("passes/lifting", "passes/fx"),
        ("tests/fx", "tests/battery", "tests/test_every_refusal.py", "tests/peers"),
    ),
    "relax": Area(("passes/tvm", "passes/relax"), ("tests/relax",)),
    "relay": Area(("passes/relay",), ("tests/relay",), torch=False),
}


def files(chosen: list[str]) -> dict[str, list[str]]:
    """The Python files below these paths, by area; all of them without a choice.

    Areas whose tests this Python cannot run are left out.

    Raises:
        SystemExit: if a path is none of an area's.
    """
    places = [(ROOT / path).resolve() for path in chosen or (str(ROOT),)]
    found: dict[str, list[str]] = {}
    for name, area in AREAS.items():
        if area.torch != HAS_TORCH:
            continue
        for source in area.sources:
            listed = sorted((ROOT / source).rglob("*.py")) or [ROOT / source]
            for path in listed:
                if path.name == "__init__.py" or not any(map(path.is_relative_to, places)):
                    continue
                found.setdefault(name, []).append(str(path.relative_to(ROOT)))
    for path in chosen:
        if not any(
            (ROOT / each).is_relative_to(ROOT / path) for row in found.values() for each in row
        ):
            raise SystemExit(f"no tests are named for {path} in this Python: see {__name__}.AREAS")
    return found


def module_name(path: str) -> str:
    """What a file of ours is imported as."""
    name = ".".join(Path(path).relative_to(ROOT).with_suffix("").parts)
    return name if name.startswith("bnfx") else f"bnfx.{name}"
