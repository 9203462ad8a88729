"""The errors of bnfx.

BnfxError
├── OptionError (ValueError)         an unknown option, or a value that it cannot have
│   └── NotYetError                  an option of the design that this version does not offer
├── TrainingModeError (ValueError)   a module in training was to be folded
├── CaptureError                     the model could not be traced
├── BuildError (RuntimeError)        TVM cannot build this, or not here
├── SourceError (ValueError)         a file or a model's name that the command line was given
├── ConversionError (TypeError)      a BatchNorm cannot be converted without loss
├── SyncError (RuntimeError)         statistics cannot be shared as was asked for
│   └── MismatchError                ranks are about to do different things
└── VerificationError                the folded model's answer differs from the original's

UserWarning
├── FoldWarning                      less was folded than could be, and how to get the rest
├── InnerWarning                     the inner compiler cannot take a part of the graph, or errs
├── RewriteWarning                   a rewrite failed and the original graph is used
├── ReportWarning                    a report could not be delivered
└── SyncWarning                      a BatchNorm in training may keep to itself, or wait in vain
"""

from __future__ import annotations


class BnfxError(Exception):
    """Base of every error that bnfx raises on purpose."""


class OptionError(BnfxError, ValueError):
    """An unknown option, or a value that it cannot have."""


class NotYetError(OptionError):
    """The option or value is part of the design, but this version does not offer it yet."""


class TrainingModeError(BnfxError, ValueError):
    """A module in training was to be folded; call ``model.eval()`` first."""


class CaptureError(BnfxError):
    """The model could not be traced into a graph."""


class BuildError(BnfxError, RuntimeError):
    """TVM cannot build this module, or not for this target."""


class SourceError(BnfxError, ValueError):
    """The command line was given a model, weights or an input that it cannot use."""


class ConversionError(BnfxError, TypeError):
    """A BatchNorm cannot be converted to another class without loss."""


class SyncError(BnfxError, RuntimeError):
    """Statistics cannot be shared between ranks as was asked for."""


class MismatchError(SyncError):
    """Ranks are about to share different things, or one of them is missing."""


class VerificationError(BnfxError):
    """The folded model's answer differs from the original's by more than was allowed."""


class FoldWarning(UserWarning):
    """Less was folded than could be; the message says how to get the rest."""


class SyncWarning(UserWarning):
    """A BatchNorm in training may keep its statistics to itself, or wait; and what to do then."""


class InnerWarning(UserWarning):
    """The inner compiler cannot take a part of the graph, which PyTorch runs; it is named. Or it
    answers otherwise than PyTorch.
    """


class ReportWarning(UserWarning):
    """A report could not be delivered: its path cannot be written, or its callable raised."""
