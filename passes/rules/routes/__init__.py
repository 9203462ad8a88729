"""Where an affine map can go: the way back to what made its input, or on to what reads its output.

A route ends only in linear operators and other affine maps, which absorb the map; ops between pass
it on, changed as :mod:`bnfx.passes.crossing` says. Nothing is moved by halves: either every branch
absorbs its part, or the route is blocked and its reasons say where.

Either way is walked op by op in topological order, each op once: when its turn comes, all the
values that matter to it have their maps already, so that maps which come together can be compared.
"""
