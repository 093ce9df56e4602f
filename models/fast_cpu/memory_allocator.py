"""Keep freed memory in the process, so that large tensors reuse its pages."""

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
    """Tell glibc's allocator to keep freed memory and to serve large blocks from it.

    By default every block above 32 MiB is mapped and unmapped anew, and its pages are zeroed by
    the kernel at first touch, which on a CPU takes as long as the computation itself. Harmless to
    repeat, and does nothing where the C library is another one (musl, macOS, Windows).

    Returns
    -------
    bool
        Whether the allocator took the values.
    """
    if platform.system() != "Linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    took = all(
        libc.mallopt(parameter, value) == 1
        for parameter, value in (
            (_M_MMAP_THRESHOLD, _THRESHOLD_BYTES),
            (_M_TRIM_THRESHOLD, _THRESHOLD_BYTES),
            (_M_TOP_PAD, _TOP_PAD_BYTES),
        )
    )
    _logger.debug("malloc thresholds raised: %s", took)
    return took
