"""Captures a million hostile objects, in as many processes as asked for; says which seed failed.

Usage: ``python -m tests.objects [--count 1000000] [--first-seed 0] [--processes 2]``. With ``--count 1`` and the seed
of a failure, that batch alone is made again.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys

from tests.objects.capture import check


def main() -> int:
    """Check batches until there were enough objects; the exit status is 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="how many objects")
    parser.add_argument("--first-seed", type=int, default=0, help="of the first batch, of some 700 objects")
    parser.add_argument("--processes", type=int, default=2, help="how many work on it")
    options = parser.parse_args()
    total, told = 0, 0
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for outcome in pool.imap(check, itertools.islice(itertools.count(options.first_seed), options.count)):
            if outcome.failure:
                print(f"seed {outcome.seed} failed:\n{outcome.failure}", file=sys.stderr)
                return 1
            total += outcome.objects
            if total - told >= 50_000:
                told = total
                print(f"{total:,} of {options.count:,} objects, up to seed {outcome.seed}", flush=True)
            if total >= options.count:
                break
        pool.terminate()
    print(f"{total:,} objects: none of their code ran, and each text is strict JSON within its bound")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
