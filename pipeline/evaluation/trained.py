"""The trained model of a fold, ready to be used: weights and what its inputs were scaled by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from geo.errors import InputError
from models.checkpoints import WEIGHTS_FILE, load_model, member_file
from models.classifier import ParcelClassifier
from models.inference import ensemble, log_probabilities
from models.model_files import ModelMetadata, load_metadata
from models.pixel_sets import PixelSets


@dataclass(frozen=True)
class Trained:
    """One fold's members, with the statistics that they were trained with."""

    folder: Path
    members: tuple[ParcelClassifier, ...]
    metadata: ModelMetadata
    device: torch.device

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Trained:
        """Load Fold_<k>/model.json and the members beside it: model.pth.tar, model_2.pth.tar, ...

        Raises
        ------
        ModelError
            If a file is missing or does not fit the other.
        """
        metadata = load_metadata(folder)
        numbers = range(1, metadata.members + 1)
        members = (load_model(folder, metadata.hyperparameters, device, n) for n in numbers)
        return cls(folder, tuple(members), metadata, device)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.metadata.class_codes)

    def log_probabilities(
        self, data: PixelSets, indices: NDArray[np.int64], batch_size: int
    ) -> NDArray[np.float32]:
        """Compute the log-probabilities of parcels, float32 (len(indices), K).

        Of several members it is the mean.

        Raises
        ------
        InputError
            If a number is not finite.
        """
        scores = []
        for number, member in enumerate(self.members, 1):
            own = log_probabilities(
                member,
                data,
                indices,
                self.metadata.normalisation,
                self.metadata.feature_scaling,
                n_pixels=self.metadata.n_pixels,
                batch_size=batch_size,
                device=self.device,
            )
            wrong = indices[~np.isfinite(own).all(axis=1)]
            if len(wrong):
                raise InputError(
                    f"{self.folder / member_file(WEIGHTS_FILE, number)} gives probabilities that "
                    f"are not finite to {len(wrong)} of {len(indices)} parcels, such as "
                    f"{', '.join(data.ids[i] for i in wrong[:5])}. Its weights, or the parcels' "
                    "geometric features, are too large. Take weights of a training that did not "
                    "diverge, or check META/geomfeat.json."
                )
            scores.append(own)
        return ensemble(scores)
