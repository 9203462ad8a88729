"""torch.fx graphs: lift to the neutral graph, lower back."""

from bnfx.passes.fx.rewrite import Rewritten, rewrite

__all__ = ["Rewritten", "rewrite"]
