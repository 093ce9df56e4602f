"""Folders that tests read from."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
PARITY = SHARED / "parity"
