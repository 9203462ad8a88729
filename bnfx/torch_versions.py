"""Which versions of torch bnfx is tested with, and what each makes different.

``docs/versions.md`` says what ran where. Differences that take code stand where they bite, and are
listed there with the version at which that code can go.
"""

from __future__ import annotations

OLDEST = (2, 11)
NEWEST = (2, 15)


def doubt(version: str) -> str | None:
    """Why it is not known whether bnfx works with this torch; ``None`` where it was tested.

    Args:
        version: as ``torch.__version__``.
    """
    try:
        found = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    except ValueError:
        return None
    if found > NEWEST:
        return f"newer than {_text(NEWEST)}, the newest that bnfx is tested with"
    if found < OLDEST:
        return f"older than {_text(OLDEST)}, the oldest that bnfx is tested with"
    return None


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
