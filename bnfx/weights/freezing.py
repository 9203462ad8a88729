"""When weights that changed are frozen again."""

from __future__ import annotations

import threading
from dataclasses import dataclass

# Calls without a change after which weights count as settled, the first time; four times as many
# after each freeze that a change made worthless.
QUIET_CALLS = 4
# Times that one graph is frozen again. Each is a compilation; after that, the live body serves.
MAX_REFREEZES = 4


@dataclass(eq=False)
class Quiet:
    """What one state of the weights has seen.

    Args:
        calls: since the change that it came of. Threads may lose count, which delays a freeze by as
            many.
        frozen: whether some thread freezes it, or did.
    """

    calls: int = 0
    frozen: bool = False


class Patience:
    """Bounds how often a graph is frozen again; a loop that trains and evaluates ends up live."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frozen = 0

    def take(self, quiet: Quiet) -> bool:
        """Whether to freeze that state now; uses up one of the times.

        Of threads that ask at once, and while the first of them freezes, one is told so.
        """
        if quiet.frozen or quiet.calls < QUIET_CALLS or self._frozen >= MAX_REFREEZES:
            return False  # usual, and no lock
        with self._lock:
            times = self._frozen
            if quiet.frozen or times >= MAX_REFREEZES or quiet.calls < QUIET_CALLS * 4**times:
                return False
            quiet.frozen = True
            self._frozen += 1
            return True

    def give_up(self) -> None:
        """Freezing failed, and would again."""
        self._frozen = MAX_REFREEZES
