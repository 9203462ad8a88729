"""The compilers behind bnfx: who gets the folded graph, and what each needs."""
