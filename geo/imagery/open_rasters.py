"""Raster files that are open, for threads that read one window of them after the other."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rasterio

from geo.imagery.acquisition import is_address

# Whatever is read is read once: GDAL's cache needs to hold but the blocks of the windows being
# read. Its own bound is 5 % of the memory. GDAL looks at this once, at its first read; a user's own
# setting stands.
os.environ.setdefault("GDAL_CACHEMAX", "64")  # MB

# Threads are the caller's: GDAL adds none.
_GDAL = {"GDAL_NUM_THREADS": "1"}
# JPEG 2000 needs no side-car files; looking for them lists the folder at every opening.
_NO_SIDECARS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


class OpenRasters:
    """Opens files when they are first used, and closes them all at its end.

    Opening a file again for every window costs as much as decoding a small one. GDAL lets but one
    thread at a time use an opened file: every thread that is at work has one of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[str, list[Any]] = {}

    def __enter__(self) -> OpenRasters:
        return self

    def __exit__(self, *_: object) -> None:
        for rasters in self._idle.values():
            for raster in rasters:
                raster.close()

    @contextmanager
    def use(self, source: str) -> Iterator[Any]:
        """Lend an open raster to this thread; it is kept open after, unless reading it fails."""
        if is_address(source):
            from geo.imagery.remote_raster import open_raster  # local files do without HTTP

            # Which says at its closing whether all that was read is whole.
            with open_raster(source, **_GDAL) as raster:
                yield raster
            return
        options = {**_GDAL, **(_NO_SIDECARS if is_jp2(source) else {})}
        with rasterio.Env(**options):
            with self._lock:
                idle = self._idle.setdefault(source, [])
                raster = idle.pop() if idle else None
            raster = raster or rasterio.open(source, sharing=False)
            try:
                yield raster
            except BaseException:
                raster.close()
                raise
            idle.append(raster)


def is_jp2(source: str) -> bool:
    """Tell whether a source is JPEG 2000, by its name."""
    return source.lower().endswith(".jp2")
