"""The model of the weights that a training starts from, and the settings that contradict it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from geo.errors import InputError
from pipeline.workflow.sections.models import Model, Train, read_recipe

if TYPE_CHECKING:
    from models.model_description import ModelDescription

_MLPS = ("mlp1", "mlp2", "mlp3", "mlp4")


def fold_to_start_from(folds: dict[int, Path], fold: int) -> Path:
    """Return the folder from which a fold starts: the same fold, and so on from the first.

    Parameters
    ----------
    folds
        {number: folder} of the weights.
    fold
        Number of the fold to train, from 1.
    """
    return list(folds.values())[(fold - 1) % len(folds)]


def refuse_other_model(
    folder: Path | str, weights: ModelDescription, model: Model, train: Train
) -> None:
    """Refuse settings of the model that are not those of the weights to start from.

    A setting with its default value counts as not stated: the model is that of the weights.

    Parameters
    ----------
    folder
        Folder of the weights, for the message.
    weights
        Their description.
    model, train
        Sections of the settings.

    Raises
    ------
    InputError
        If a setting differs from its default and from the weights. The message names all.
    """
    recipe = read_recipe(train.recipe)["model"]
    of_weights: dict[str, Any] = weights.hyperparameters.to_json() | {
        "geometric_features": weights.feature_scaling is not None,
        "season_start": weights.first_date[5:],
    }
    wrong = []
    for name, field in Model.model_fields.items():
        stated, default = getattr(model, name), recipe.get(name, field.default)
        if stated == default or _as_compared(name, stated) == _as_compared(name, of_weights[name]):
            continue
        wrong.append(f"model.{name} is {stated}, that of the weights {of_weights[name]}")
    if wrong:
        raise InputError(
            f"train.from: {'; '.join(wrong)} ({folder}). The model is that of the weights: remove "
            "these settings, or train.from."
        )


def _as_compared(name: str, value: Any) -> Any:
    """Return a value without the widths that follow from the data."""
    if name in _MLPS and value is not None:
        return list(value)[1:-1] if name == "mlp4" else list(value)[1:]
    return value
