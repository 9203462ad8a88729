"""Which calls of one compiled model go straight to its graph."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from bnfx.direct.frame import Frame
from bnfx.direct.shortcut import Scope, Shortcut, may_go_past_dynamo
from bnfx.direct.watched import NotDirectError, Watched

log = logging.getLogger("bnfx")

# Shortcuts of one model: as many as Dynamo compiles graphs for one frame, by default.
MAX_SHORTCUTS = 8
# At most this share of the time goes into making shortcuts: a model that is written to between
# calls is to be served by torch.compile.
SHARE = 0.05


class DirectCalls:
    """The shortcuts of one model. They are replaced as a whole, so threads may call at once.

    Args:
        model: as it was given.
        compiled: what torch.compile made of it.

    Attributes:
        why_not: why the latest call could not be made a shortcut of; for people.
    """

    def __init__(self, model: nn.Module, compiled: nn.Module) -> None:
        self._model = model
        self._compiled = compiled
        # One attribute, as another thread may replace it between two looks.
        self._known: tuple[Frame | None, tuple[Shortcut, ...]] = (None, ())
        self._not_before = 0.0
        self.why_not = "it was not called yet"

    def find(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Shortcut, Scope] | None:
        """The shortcut for a call, if there is one."""
        frame, shortcuts = self._known
        if frame is None or not may_go_past_dynamo():
            return None
        scope = frame.scope(args, kwargs)
        if scope is None:
            return None
        for shortcut in shortcuts:
            if not shortcut.holds() or shortcut.exists() is None:
                # What it is of is not to be kept alive.
                known, others = self._known
                self._known = known, tuple(each for each in others if each is not shortcut)
            elif shortcut.fits(scope):
                return shortcut, scope
        return None

    def learn(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Make a shortcut of a call that torch.compile has just answered."""
        began = time.monotonic()
        if began < self._not_before:
            return
        try:
            self._learn(args, kwargs)
            self.why_not = ""
        except NotDirectError as why:
            self.why_not = str(why)
        except Exception as error:  # private parts of torch: nothing here is worth a call
            self.why_not = f"{type(error).__name__}: {error}"
            log.info("bnfx: a call cannot be made direct", exc_info=True)
        ended = time.monotonic()
        self._not_before = ended + (ended - began) / SHARE

    def _learn(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        # Other threads may assign while this looks. So it looks twice: the first time to learn what
        # is to be watched, the second time while that is watched.
        first, second = Watched(), Watched()
        self._look(args, kwargs, first, lambda: False)
        holds = first.holds()
        frame, shortcut = self._look(args, kwargs, second, holds)
        if not (first.includes(second) and holds()):
            raise NotDirectError("something was assigned meanwhile")
        known, others = self._known
        same = others if known is not None and known.is_same(frame) else ()
        self._known = frame, (shortcut, *same)[:MAX_SHORTCUTS]

    def _look(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        watched: Watched,
        holds: Callable[[], bool],
    ) -> tuple[Frame, Shortcut]:
        if self._model.training:
            raise NotDirectError("the model is in training mode")
        if not may_go_past_dynamo():
            raise NotDirectError("a mode or hook is set")
        frame = Frame.of(self._model, self._entered())
        scope = frame.scope(args, kwargs)
        if scope is None:
            raise NotDirectError("its arguments do not fit")
        context: Any = self._compiled.dynamo_ctx
        backend = context.callback
        while hasattr(backend, "_torchdynamo_orig_backend"):
            backend = backend._torchdynamo_orig_backend
        shortcut = Shortcut.of(self._model, self._compiled, frame, backend, scope, watched, holds)
        return frame, shortcut

    def _entered(self) -> Any:
        """What torch.compile enters; whoever wraps that in turn has a say in each call."""
        forward: Any = self._compiled.forward
        entered = getattr(forward, "__wrapped__", None)
        if entered is not getattr(forward, "_torchdynamo_orig_callable", None):
            raise NotDirectError("the forward of what was compiled is not torch.compile's")
        return entered
