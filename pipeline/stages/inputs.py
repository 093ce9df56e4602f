"""Stage inputs: record which inputs a run has."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.provenance.inputs import digest_inputs, imagery_sources, write_inputs
from pipeline.workflow.acquisition_table import read_used

logger = logging.getLogger(__name__)


def inputs(
    register: list[Path],
    tables: list[Path],
    masks: list[Path],
    dataset: list[Path],
    weights: list[Path],
    inputs: Path,
    acquisitions: Path | None = None,
    items: Path | None = None,
    threads: int = 1,
) -> None:
    """Record path, size, time and digest of every input, by which a later change is noticed.

    Parameters
    ----------
    register
        Files of the register.
    tables
        Tables of codes and names.
    masks
        Folder of the user's cloud masks.
    dataset
        Files and folders of existing datasets.
    weights
        Files of existing weights.
    inputs
        Written: JSON list of {role, path, bytes, mtime_ns, blake2b}. Addresses have role and path
        only. Digests are BLAKE2b of 32 bytes; of imagery, cloud masks and pixels that are larger
        than 1 MB only samples are digested.
    acquisitions, items
        Table of acquisitions and folder of their items: the files of those that are used. None if
        the run starts from existing datasets.
    threads
        Number of files that are read at a time.
    """
    sources = []
    if acquisitions is not None and items is not None:
        sources = imagery_sources(items / f"{name}.json" for name in read_used(acquisitions))
    named = [
        *(("register", path) for path in register),
        *(("table", path) for path in tables),
        *(("imagery", path) for path in sources),
        *(("cloud masks", path) for path in masks),
        *(("pixels" if path.is_dir() else "dataset", path) for path in dataset),
        *(("weights", path) for path in weights),
    ]
    found = digest_inputs([(role, str(path)) for role, path in named], threads)
    write_inputs(inputs, found)
    size = sum(one.state.bytes for one in found if one.state is not None)
    logger.info("%d inputs, %.2f GB", len(found), size / 1e9)
