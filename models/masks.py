"""What is known of a mask without waiting for a GPU."""

from __future__ import annotations

from torch import Tensor


def all_true(mask: Tensor) -> bool:
    """Tell whether a mask is known to be True everywhere, so that it can be done without.

    On a GPU it is not known before the GPU has come to it, and the computation goes on with the
    mask, to the same result.
    """
    return mask.device.type == "cpu" and bool(mask.all())
