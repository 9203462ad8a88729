"""Runs the random tests for a time, each round with a seed of its own: ``make fuzz SECONDS=600``.

What fails is made small by hypothesis, and printed as a program that runs by itself, or with the
command that shows it again.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/fuzz/test_fuzz.py",
    "tests/fuzz/test_equivalents.py",
    "tests/relax/test_random.py",
    "tests/relax/test_equivalents.py",
    "tests/fuzz/test_files.py",
    "tests/weights/test_random.py",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--each", type=int, default=100, help="examples of each test and round")
    parser.add_argument("tests", nargs="*", default=TESTS)
    chosen = parser.parse_args()
    began, ran = time.monotonic(), Counter[str]()
    while time.monotonic() - began < chosen.seconds:
        seed = random.SystemRandom().randrange(2**32)
        test = chosen.tests[ran.total() % len(chosen.tests)]
        options = ["-q", "-x", "-m", "heavy or not heavy", f"--hypothesis-seed={seed}", test]
        amounts = {
            "BNFX_FUZZ": str(chosen.each),
            "BNFX_FUZZ_FILES": str(chosen.each),
            "BNFX_FUZZ_FIRST": str(seed),
        }
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options],
            cwd=ROOT,
            env={**os.environ, **amounts},
            capture_output=True,
            text=True,
        )
        ran[test] += 1
        last = done.stdout.strip().splitlines()[-1:]
        print(
            f"{time.monotonic() - began:6.0f} s  {test:34} seed {seed:10}  {''.join(last)}",
            flush=True,
        )
        if done.returncode:
            print(done.stdout)
            variables = " ".join(f"{name}={value}" for name, value in amounts.items())
            print(f"Again: {variables} python -m pytest {' '.join(options)}")
            return 1
    print(f"{ran.total()} rounds of {chosen.each} examples a test, nothing found:")
    for test, count in ran.items():
        print(f"  {test:34} {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
