"""Which tests are to kill the mutants of which file, the quickest first."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
PROOFS = "tests/proofs/test_slice.py"

# By the longest beginning of a path.
TESTS: dict[str, tuple[str, ...]] = {
    "passes/algebra": ("tests/algebra", PROOFS),
    "passes/crossing": ("tests/crossing", "tests/rules/test_move_affine.py", PROOFS),
    "passes/rules": ("tests/rules", "tests/test_pipeline.py", PROOFS),
    "passes/rules/fold_affine_into_linear": (
        "tests/rules/test_fold_affine_into_linear.py",
        "tests/rules/test_fold_affine_into_linear_refusals.py",
        "tests/rules",
    ),
    "passes/rules/fold_affine_into_next": (
        "tests/rules/test_fold_affine_into_next_linear.py",
        "tests/rules/test_fold_affine_into_next_linear_refusals.py",
        "tests/rules",
    ),
    "passes/rules/merge_affines": (
        "tests/rules/test_merge_affines.py",
        "tests/rules/test_merge_affines_of_arithmetic.py",
        "tests/rules",
    ),
    "passes/rules/merge_parallel": (
        "tests/rules/test_merge_parallel_linear.py",
        "tests/rules/test_merge_parallel_linear_refusals.py",
        "tests/rules",
        PROOFS,
    ),
    "passes/rules/merge_serial": (
        "tests/rules/test_merge_serial_linear.py",
        "tests/rules",
        PROOFS,
    ),
    "passes/rules/lower": ("tests/rules/test_lower_batch_norm.py", "tests/rules"),
    "passes/rules/guards": (
        "tests/rules/test_fold_affine_into_linear_refusals.py",
        "tests/rules/test_merge_affines.py",
        "tests/rules/test_lower_batch_norm.py",
        "tests/rules",
    ),
    "passes/rules/cost": ("tests/rules/test_cost.py", "tests/rules"),
    "passes/values": ("tests/test_pipeline.py", "tests/rules", "tests/weights/test_staleness.py"),
    "passes/graph": ("tests/test_pipeline.py", "tests/rules"),
    "passes/pipeline": ("tests/test_pipeline.py", "tests/rules"),
    "passes/lifting": ("tests/fx", "tests/test_every_refusal.py"),
    "passes/fx": ("tests/fx", "tests/test_every_refusal.py"),
    "passes/fx/memory": (
        "tests/fx/test_writes.py",
        "tests/fx/test_overlap.py",
        "tests/fx/test_written_later.py",
        "tests/fx",
    ),
    "bnfx/weights/changes": (
        "tests/weights/test_content.py",
        "tests/weights/test_unmarked.py",
        "tests/weights/test_staleness.py",
        "tests/weights/test_native.py",
    ),
}

# What `make mutants` breaks, in this order; other files by name.
SOURCES = (
    "passes/algebra",
    "passes/crossing",
    "passes/rules",
    "passes/values.py",
    "passes/lifting",
    "passes/fx/roles",
    "passes/fx/calls",
    "passes/fx/memory",
    "bnfx/weights/changes",
)


def suite_of(source: str) -> tuple[str, ...]:
    """The tests for the file ``source``, a path from the root."""
    fitting = [start for start in TESTS if source.startswith(start)]
    if not fitting:
        raise SystemExit(f"no tests are named for {source}: add a row to {__name__}.TESTS")
    return TESTS[max(fitting, key=len)]


def files(chosen: list[str]) -> list[str]:
    """All Python files of these paths, from the root, each once."""
    found: dict[str, None] = {}
    for path in chosen or SOURCES:
        place = ROOT / path
        listed = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        found.update((str(each.relative_to(ROOT)), None) for each in listed)
    return [path for path in found if not path.endswith("__init__.py")]
