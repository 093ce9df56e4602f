"""Calibrated probabilities: log-probabilities divided by the temperature of a fold's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.errors import InputError
from models.model_files import CALIBRATION_FILE


def probabilities_at(
    log_probabilities: NDArray[np.floating[Any]], temperature: ArrayLike
) -> NDArray[np.float64]:
    """Compute softmax(log-probabilities / temperature) of every row.

    Parameters
    ----------
    log_probabilities
        (N, K), up to a constant of each row.
    temperature
        Greater than 0; for all rows, or (N, 1). 1 changes nothing.

    Returns
    -------
    float64 (N, K); each row adds up to 1.
    """
    scaled = np.asarray(log_probabilities, np.float64) / np.asarray(temperature, np.float64)
    scaled -= scaled.max(axis=1, keepdims=True)
    odds: NDArray[np.float64] = np.exp(scaled, out=scaled)
    odds /= odds.sum(axis=1, keepdims=True)
    return odds


def find_temperature(folder: Path) -> float | None:
    """Read the temperature beside the model of a fold; None if it was not calibrated.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    try:
        return parse_temperature(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{path} is not the calibration of a model: {error}. Copy it again from its run, or "
            "delete it: probabilities are not calibrated then."
        ) from None


def parse_temperature(values: Any) -> float:
    """Return the temperature in the content of calibration.json.

    Raises
    ------
    ValueError, LookupError, TypeError
        If it is not there, or not positive and finite.
    """
    temperature = float(values["temperature"])
    if not 0 < temperature < np.inf:
        raise ValueError(f"its temperature is {temperature}")
    return temperature
