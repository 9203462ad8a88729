"""Prints docs/refusals.md from the table of refusal codes."""

from __future__ import annotations

from bnfx.passes.refusals import MEANINGS

_HEAD = """\
# Refusals

A fold that bnfx cannot prove exact is not done, and the report says why: a stable code, and a
sentence about that very BatchNorm. `print(bnfx.explain(model, *example_inputs))` shows them.

A BatchNorm that is *lowered* is not left behind: it becomes one multiply-add with constants, which
compilers fuse; its codes say why it was not folded. A BatchNorm that is *kept* is untouched.

This page is written by `make docs` from the table in `passes/refusals.py`.

| code | meaning | what to do |
| --- | --- | --- |
"""


def markdown() -> str:
    """The whole page."""
    rows = (
        f"| `{code.value}` | {entry.meaning} | {entry.remedy} |\n"
        for code, entry in MEANINGS.items()
    )
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    print(markdown(), end="")
