"""Random modules of both of TVM's IRs, and what they compute, in NumPy."""
