"""Weights that a training starts from, in place of random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.classifier import ParcelClassifier


@dataclass(frozen=True, eq=False)
class Start:
    """The weights of one model, and which of its classes the new model has, too.

    Attributes
    ----------
    state_dict
        The weights.
    rows
        int64 (n_classes,): for each class of the new model, its class index in the weights; -1 for
        a class that the weights do not have.
    """

    state_dict: Mapping[str, Tensor]
    rows: NDArray[np.int64]

    def load_into(self, model: ParcelClassifier) -> None:
        """Replace the weights of a model, except the last layer's rows of new classes."""
        new = {name: value.clone() for name, value in model.state_dict().items()}
        last_layer = f"decoder.{len(model.decoder) - 1}."
        kept = np.flatnonzero(self.rows >= 0)
        for name, value in self.state_dict.items():
            if name.startswith(last_layer):
                new[name][kept] = value[self.rows[kept]].to(new[name])
            else:
                new[name] = value
        model.load_state_dict(new)


def shared_rows(
    codes: Sequence[int | str], codes_of_weights: Sequence[int | str]
) -> NDArray[np.int64]:
    """Return the class index in the weights of every class code, int64; -1 where there is none."""
    index = {code: i for i, code in enumerate(codes_of_weights)}
    return np.array([index.get(code, -1) for code in codes], np.int64)
