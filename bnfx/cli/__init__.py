"""The command line ``bnfx``."""

from bnfx.cli.main import app as app
