"""Models that were trained elsewhere: by this project, or by the reference implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geo.errors import InputError
from models.checkpoints import WEIGHTS_FILE, build_model, load_state_dict
from models.errors import InputError as ModelInputError
from models.hyperparameters import Hyperparameters
from models.model_metadata import METADATA_FILE, ModelMetadata
from models.standardisation import FeatureScaling, Normalisation
from pipeline.dataset.normalisation_pickle import read_normalisation
from pipeline.dataset.pixel_set_store import (
    read_all_features,
    read_classes,
    read_dates,
    read_description,
    read_parcel_dates,
)
from pipeline.evaluation.trained import Trained
from pipeline.workflow.paths import DatasetPaths
from pipeline.workflow.settings import PredictSettings

StateDict = dict[str, Tensor]


def load_given(
    folder: Path, dataset: DatasetPaths, settings: PredictSettings, device: torch.device
) -> Trained:
    """Load a model of this project, which says all of itself, or one of the reference.

    The reference keeps nothing beside its weights. So the widths come from their shapes, what no
    shape tells from the settings of the model, and everything else is as its own inference has it:
    the normalisation of the dataset, features standardised over all parcels (ddof 1), days since
    the first date, the classes of the settings.

    Parameters
    ----------
    folder
        Fold_<k>, with model.pth.tar.
    dataset
        Of the parcels to predict.
    settings
        model and train.pixels.
    device
        Where to predict.

    Raises
    ------
    InputError
        If the weights do not fit the settings or the dataset.
    """
    if (folder / METADATA_FILE).is_file():
        return Trained.load(folder, device)
    path, state = folder / WEIGHTS_FILE, load_state_dict(folder)
    classes, bands = read_classes(dataset), read_description(dataset)["bands"]
    try:
        hyperparameters = hyperparameters_of(state, settings.model)
    except ModelInputError as error:
        raise InputError(f"{path}: {error}") from None
    if hyperparameters.n_classes != len(classes):
        raise InputError(
            f"{path} tells {hyperparameters.n_classes} classes apart, the settings name "
            f"{len(classes)}. List their codes in dataset.classes, in the order of its training."
        )
    if hyperparameters.input_dim != len(bands):
        raise InputError(
            f"{path} takes {hyperparameters.input_dim} channels, the dataset has {len(bands)}: "
            f"{', '.join(bands)}."
        )
    n_dates = len(read_dates(dataset))
    if hyperparameters.n_dates not in (None, n_dates) or (
        hyperparameters.n_dates is not None and read_parcel_dates(dataset) is not None
    ):
        raise InputError(
            f"{path} normalises {hyperparameters.n_dates} dates together, as the reference's "
            "L-TAE does, so it takes no other number of dates than that, the same for all "
            f"parcels. The dataset has {n_dates}."
        )
    scaling = None
    if hyperparameters.extra_size:
        features = read_all_features(dataset)
        if features.shape[1] != hyperparameters.extra_size:
            raise InputError(
                f"{path} takes {hyperparameters.extra_size} geometric features, {dataset.features} "
                f"has {features.shape[1]} for each parcel."
            )
        scaling = FeatureScaling.fit(features)
    metadata = ModelMetadata(
        hyperparameters=hyperparameters,
        normalisation=Normalisation(*read_normalisation(dataset.normalisation)),
        feature_scaling=scaling,
        n_pixels=settings.train.pixels,
        bands=bands,
        class_codes=[str(land.code) for land in classes],
        class_names=[land.name for land in classes],
        first_date=read_dates(dataset)[0].isoformat(),
        seed=0,
    )
    model = build_model(hyperparameters, state, path).to(device)
    return Trained(folder, (model,), metadata, device)


def hyperparameters_of(state: StateDict, model: Any) -> Hyperparameters:
    """Read the widths off the shapes of a checkpoint's weights.

    Parameters
    ----------
    state
        The reference's state dict.
    model
        The settings of what no shape tells: pooling, T and positions.

    Raises
    ------
    InputError
        If these are no weights of PSE+TAE or PSE+L-TAE, or if the pooling does not fit them.
    """
    mlp1 = _widths(state, "spatial_encoder.mlp1.{}.lin.weight", step=1)
    mlp2 = _widths(state, "spatial_encoder.mlp2.{}.weight", step=3)
    mlp3 = _widths(state, "temporal_encoder.mlp.{}.weight", step=3)
    mlp4 = _widths(state, "decoder.{}.weight", step=3)
    extra_size = mlp2[0] - mlp1[-1] * len(model.pooling.split("_"))
    if extra_size < 0:
        raise InputError(
            f"The second MLP of the weights takes {mlp2[0]} values, fewer than the pooling "
            f"{model.pooling} of {mlp1[-1]} gives. Set model.pooling to that of the training."
        )
    query = state.get("temporal_encoder.attention_heads.Q")
    keys = state.get("temporal_encoder.attention_heads.fc1_k.weight")
    if keys is None or keys.ndim != 2:
        raise InputError("The weights have no attention heads: they are not of PSE+(L-)TAE.")
    projection = state.get("temporal_encoder.inconv.0.weight")
    norm = state.get("temporal_encoder.inconv.1.weight")
    # In the TAE every head hands on the whole width, in the L-TAE its share.
    n_head = mlp3[0] // max(keys.shape[1], 1) if query is None else len(query)
    return Hyperparameters(
        name="psetae" if query is None else "pseltae",
        input_dim=mlp1[0],
        mlp1=tuple(mlp1),
        pooling=model.pooling,
        mlp2=tuple(mlp2),
        extra_size=extra_size,
        n_head=n_head,
        d_k=keys.shape[0] // max(n_head, 1),
        d_model=None if projection is None else projection.shape[0],
        mlp3=tuple(mlp3),
        T=model.T,
        mlp4=tuple(mlp4),
        positions=model.positions,
        # The reference normalises channels and dates together where its L-TAE projects.
        n_dates=norm.shape[1] if norm is not None and norm.ndim == 2 else None,
    )


def _widths(state: StateDict, name: str, step: int) -> list[int]:
    """Give the widths of an MLP whose linear layers are so many places apart."""
    widths: list[int] = []
    while (weight := state.get(name.format(len(widths[1:]) * step))) is not None:
        if weight.ndim != 2:
            break
        widths = [*(widths or [weight.shape[1]]), weight.shape[0]]
    if not widths:
        raise InputError(
            f"The weights have no {name.format(0)}: they are not of PSE+TAE or PSE+L-TAE as the "
            "reference saves them."
        )
    return widths
