"""Parts of ``python -m bnfx.bench.gpu``: what is measured on a GPU, and how results are kept."""
