"""What lifting is in every IR.

Arithmetic with constants, ops that affine maps cross (windows, slices, shuffles, pads), what a
lifted graph is, and the report of one that is left alone.
"""
