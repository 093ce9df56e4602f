"""The reference implementation as a peer: where it is, and what it needs to run unmodified."""

from __future__ import annotations

import os
from pathlib import Path

REFERENCE = "REFERENCE"
"""Environment variable with the folder of a checkout of VSainteuf/pytorch-psetae."""

TUNED_MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""Environment in which glibc keeps freed memory, which is the best a user can do from outside."""


def missing_reference() -> str | None:
    """Say how to get the reference; None where REFERENCE names a checkout of it."""
    folder = os.environ.get(REFERENCE)
    if folder is None:
        return (
            "clone VSainteuf/pytorch-psetae from GitHub and give its folder by --reference, or by "
            "REFERENCE=... make bench"
        )
    if not (Path(folder) / "models" / "stclassifier.py").is_file():
        return f"{folder} has no models/stclassifier.py: give a checkout of pytorch-psetae"
    return None
