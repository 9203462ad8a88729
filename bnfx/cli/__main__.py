"""``python -m bnfx.cli``: the command line without its script."""

from bnfx.cli.main import app

if __name__ == "__main__":
    app(prog_name="bnfx")
