"""When weights that changed are frozen again."""

from __future__ import annotations

import threading

# Calls without a change after which weights count as settled, the first time; four times as many
# after each freeze that a change made worthless.
QUIET_CALLS = 4
# Times that one graph is frozen again. Each is a compilation; after that, the live body serves.
MAX_REFREEZES = 4


class Patience:
    """Bounds how often a graph is frozen again; a loop that trains and evaluates ends up live."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frozen = 0

    def take(self, quiet: int) -> bool:
        """Whether to freeze now, after ``quiet`` calls without a change; uses up one of the times.

        Of threads that ask at once, one is told so.
        """
        if quiet < QUIET_CALLS or self._frozen >= MAX_REFREEZES:  # usual, and no lock
            return False
        with self._lock:
            if self._frozen >= MAX_REFREEZES or quiet < QUIET_CALLS * 4**self._frozen:
                return False
            self._frozen += 1
            return True

    def give_up(self) -> None:
        """Freezing failed, and would again."""
        self._frozen = MAX_REFREEZES
