"""Check that two models gave the same parcels the same log-probabilities."""

from __future__ import annotations

import sys

import numpy as np

TOLERANCE = 1e-4


def main(ours: str, theirs: str) -> None:
    """Exit with a message where ids or scores differ."""
    first, second = np.load(ours), np.load(theirs)
    if not np.array_equal(first["ids"], second["ids"]):
        sys.exit(f"other parcels: {first['ids'][:5]} and {second['ids'][:5]}")
    largest = np.abs(first["scores"] - second["scores"]).max()
    if not largest <= TOLERANCE:
        sys.exit(f"log-probabilities differ by up to {largest:.2g}, not by {TOLERANCE} at most")


if __name__ == "__main__":
    main(*sys.argv[1:])
