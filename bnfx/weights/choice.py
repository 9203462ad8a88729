"""Which form the weights of a compiled body take, and why.

- ``packed``: inputs, in the layout that oneDNN packs weights into; as fast as constants.
- ``frozen``: constants.
- ``plain``: inputs. It serves everything, and is what the others fall back to.
"""

from __future__ import annotations

from bnfx.inner.base import Inner

_REASONS = {"packed": "inputs, packed for oneDNN", "frozen": "constants", "plain": "inputs"}


def forms(wanted: str, refusal: str, inner: Inner, why: list[str]) -> list[str]:
    """What to try, in order.

    Args:
        wanted: the option ``weights``: ``"live"``, ``"frozen"`` or ``"auto"``.
        refusal: why parameters cannot be constants, if they cannot.
        inner: the inner compiler.
        why: gets the reasons for what is left out.
    """
    chosen = {"live": ["packed"], "frozen": ["frozen"], "auto": ["packed", "frozen"]}[wanted]
    if refusal:
        why.append(refusal)
        return ["plain"]
    if inner.pack is None and "packed" in chosen:
        chosen.remove("packed")
        why.append(inner.unpackable)
    if inner.freeze is None and "frozen" in chosen:
        chosen.remove("frozen")
        if wanted == "frozen":
            why.append("the inner compiler gains nothing from constants")
    return [*chosen, "plain"]


def described(form: str, why: list[str]) -> tuple[str, str]:
    """``"live"`` or ``"frozen"``, and all reasons in a line."""
    return "frozen" if form == "frozen" else "live", "; ".join([_REASONS[form], *why])
