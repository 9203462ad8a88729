"""Runs the spaces whole and prints cases and seconds of one core: ``make prove``."""

from __future__ import annotations

import argparse
import time
from collections import Counter

import torch
from proofs.spaces import SPACES


def main() -> None:
    parser = argparse.ArgumentParser(prog="prove", description=__doc__)
    parser.add_argument("--step", type=int, default=1, help="take each STEP-th case only")
    parser.add_argument("--only", default="", help="rules whose name contains this")
    parser.add_argument("--bound", default="", help="spaces whose bound contains this")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # they would wait for one another, forty times as long
    total: Counter[str] = Counter()
    began = time.process_time()
    for space in SPACES:
        if chosen.only not in space.rule or chosen.bound not in space.bound:
            continue
        start = time.process_time()
        found = space.run(chosen.step)
        total += found
        outcome = ", ".join(f"{count:,} {what}" for what, count in found.most_common())
        seconds = time.process_time() - start
        print(f"{space.rule:30} {space.bound:62} {seconds:7.1f} s  {outcome}", flush=True)
    print(f"{sum(total.values()):,} cases, none wrong, in {time.process_time() - began:.0f} s")


if __name__ == "__main__":
    main()
