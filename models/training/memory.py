"""How much memory a training needs, checked before it starts."""

from __future__ import annotations

import logging

from models.errors import InputError
from models.hyperparameters import Hyperparameters
from models.memory import MB, room

_logger = logging.getLogger(__name__)

# Measured on a CPU with batches of 1,000 to 800,000 rows: what a training needs beside the
# libraries that are loaded when it starts, and for each row and channel of the MLP on pixels.
_FIXED = 100 * MB
_PER_VALUE = 16
# What threads and the allocator reserve without using it.
_RESERVED = 200 * MB


def training_memory(
    hyperparameters: Hyperparameters, batch_size: int, n_pixels: int, n_dates: int
) -> int:
    """Return the bytes that a training on a CPU needs at least, beside its libraries and data.

    Parameters
    ----------
    hyperparameters
        The model.
    batch_size, n_pixels, n_dates
        Parcels in a batch, pixels drawn of each, and dates. Their product is the number of rows.
    """
    # The output of the last layer, the widest, is not kept.
    n_values = sum(hyperparameters.mlp1[:-1]) * batch_size * n_pixels * n_dates
    return _FIXED + _PER_VALUE * n_values


def check_memory(needed: int, batch: str) -> None:
    """Refuse a training that needs more memory than a limit leaves; warn if little is available.

    Parameters
    ----------
    needed
        Result of `training_memory`.
    batch
        The size of a batch in words, for the message.

    Raises
    ------
    InputError
        If a limit of the shell or of the control group is too small.
    """
    for what, left in room().items():
        least = needed + (_RESERVED if what.startswith("address space") else 0)
        if left >= least:
            continue
        text = (
            f"The training needs about {least // MB:,} MB of memory for {batch}, but the {what} "
            f"has room for {left // MB:,} MB. "
        )
        if what == "available memory":
            _logger.warning("%sIt may be killed, or slow everything down.", text)
            continue
        raise InputError(
            f"{text}Raise the limit by {(least - left) // MB + 1:,} MB, or lower train.batch_size "
            "or train.pixels."
        )
