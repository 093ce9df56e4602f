"""Keep freed memory in the process, so that large arrays reuse its pages."""

from __future__ import annotations

import ctypes
import logging
import platform

_logger = logging.getLogger(__name__)

# Parameter numbers of mallopt(3) in glibc's malloc.h, and the values set here.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_THRESHOLD_BYTES = 1 << 30
_TOP_PAD_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Make glibc's allocator keep freed memory and reuse it for large blocks.

    By default, every block above 32 MiB is mapped and unmapped anew. The kernel zeroes its pages at
    the first access, which takes as long as the computation itself. The call can be repeated. It
    does nothing with another C library (musl, macOS, Windows).

    Returns
    -------
    bool
        Whether the allocator accepted the values.
    """
    if platform.system() != "Linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    accepted = all(
        libc.mallopt(parameter, value) == 1
        for parameter, value in (
            (_M_MMAP_THRESHOLD, _THRESHOLD_BYTES),
            (_M_TRIM_THRESHOLD, _THRESHOLD_BYTES),
            (_M_TOP_PAD, _TOP_PAD_BYTES),
        )
    )
    _logger.debug("malloc thresholds raised: %s", accepted)
    return accepted
