"""Where the seeds of random tests begin: at 0, or where ``make fuzz`` says."""

import os

FUZZ = int(os.environ.get("BNFX_FUZZ", "0"))  # examples of a test; 0: those of the suite
FIRST = int(os.environ.get("BNFX_FUZZ_FIRST", "0"))
