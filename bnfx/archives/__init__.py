"""Files of tensors and programs, read without running, importing or unpickling anything of theirs.

What is not on a list of what is allowed is refused: entries of an archive, opcodes of a pickle,
fields, operators and expressions of a program. docs/adr/019-files-are-inspected.md says why.
"""
