"""The models of a run as a STAC item with the extension Machine Learning Model (MLM)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from geo.imagery.acquisition import COMMON_NAMES, safe_name
from geo.imagery.imagery_files import unused_name
from models.model_description import ModelDescription
from models.model_files import member_file
from pipeline.provenance.trained_models import TrainedModels, read_temperature

EXTENSIONS = (
    "https://stac-extensions.github.io/mlm/v1.6.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
)
ARCHITECTURES = {
    "psetae": "Pixel-Set Encoder + Temporal Attention Encoder (PSE+TAE)",
    "pseltae": "Pixel-Set Encoder + Lightweight Temporal Attention Encoder (PSE+L-TAE)",
}
FEATURES = ("perimeter", "pixel count", "cover ratio", "perimeter over surface")
_FLOAT, _ANY = "float32", -1


def model_item(models: TrainedModels, folder: Path) -> dict[str, Any]:
    """Describe the models of a run as a STAC item, version 1.1.

    Parameters
    ----------
    models
        The models.
    folder
        Folder of the item: files are named relative to it.

    Returns
    -------
    dict
        JSON values. The place is that of the imagery of the training, null if it is not known.
    """
    about, bbox = models.description, models.bbox
    name = about.hyperparameters.name
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(EXTENSIONS),
        "id": safe_name(f"{name}-{models.run}"),
        "geometry": None if bbox is None else _rectangle(*bbox),
        **({} if bbox is None else {"bbox": bbox}),
        "properties": {
            **_times(models),
            "title": f"Crop classes of parcels: {models.run}",
            "description": _description(models),
            "mlm:name": _model_name(f"{name}-{models.run}"),
            "mlm:architecture": ARCHITECTURES[name],
            "mlm:tasks": ["classification"],
            "mlm:framework": "PyTorch",
            **_versions(about),
            "mlm:total_parameters": models.n_parameters,
            "mlm:pretrained": about.started_from is not None,
            "mlm:pretrained_source": about.started_from,
            "mlm:accelerator": None,
            "mlm:accelerator_constrained": False,
            "mlm:batch_size_suggestion": models.settings["predict"]["batch_size"],
            "mlm:input": _inputs(about),
            "mlm:output": [_output(models)],
            "mlm:hyperparameters": _hyperparameters(models),
        },
        "links": [],
        "assets": _assets(models, folder),
    }


def _times(models: TrainedModels) -> dict[str, Any]:
    """Return the season of the training."""
    if models.season is None:
        day = f"{models.description.first_date}T00:00:00Z"
        return {"datetime": day}
    first, last = models.season
    return {
        "datetime": None,
        "start_datetime": f"{first}T00:00:00Z",
        "end_datetime": f"{last}T23:59:59Z",
    }


def _description(models: TrainedModels) -> str:
    scores = models.scored[0]
    accuracy, f1 = (scores.overall["model"][key] for key in ("Accuracy", "MACRO_F1-score"))
    text = (
        f"One model for each of {len(models.files)} folds. Out of fold ({scores.folds}), "
        f"{models.n_parcels:,} parcels: overall accuracy {accuracy:.3f}, macro F1 {f1:.3f}. "
        "See model_card.md."
    )
    simulated = "The scene is SIMULATED: the scores say nothing about real crops. "
    return simulated + text if models.is_simulated else text


def _model_name(text: str) -> str:
    """Return a name of letters, digits, _ . and -, which ends in a letter or digit."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text).rstrip("_.-")


def _versions(about: ModelDescription) -> dict[str, str]:
    version = about.versions.get("torch")
    return {} if version is None else {"mlm:framework_version": version}


def _inputs(about: ModelDescription) -> list[dict[str, Any]]:
    """Describe the inputs of a model: pixels, days, and features if it uses them."""
    means, stds = about.normalisation.means, about.normalisation.stds
    pixels: dict[str, Any] = {
        "name": "pixels",
        "description": "reflectance x 10,000 of a parcel's pixels, normalised; a mask tells which "
        "of them are padding or not clear",
        "bands": about.bands,
        "input": _array(["batch", "time", "bands", "pixel"], [_ANY, _ANY, len(about.bands), _ANY]),
    }
    # By date and channel: model.json contains them, the extension has no form for it.
    if means.ndim < 2:
        pairs = zip(means.reshape(-1).tolist(), stds.reshape(-1).tolist(), strict=True)
        pixels["value_scaling"] = [_z_score(*pair) for pair in pairs]
    days = {
        "name": "days",
        "description": f"days since {about.first_date}, or since that day of another season",
        "bands": [],
        "input": _array(["batch", "time"], [_ANY, _ANY]),
    }
    scaling = about.feature_scaling
    if scaling is None:
        return [pixels, days]
    features = {
        "name": "features",
        "description": f"{', '.join(FEATURES)} of the parcel, in m and 1/m",
        "bands": [],
        "input": _array(["batch", "feature"], [_ANY, len(scaling.means)]),
        "value_scaling": [
            _z_score(*pair)
            for pair in zip(scaling.means.tolist(), scaling.stds.tolist(), strict=True)
        ],
    }
    return [pixels, days, features]


def _z_score(mean: float, std: float) -> dict[str, Any]:
    # A constant channel becomes 0, see `models.standardisation`.
    return {"type": "z-score", "mean": mean, "stddev": std or 1.0}


def _array(order: list[str], shape: list[int]) -> dict[str, Any]:
    return {"shape": shape, "dim_order": order, "data_type": _FLOAT}


def _output(models: TrainedModels) -> dict[str, Any]:
    """Describe the output: a logit of every class, in order of the class index."""
    codes = models.description.class_codes
    names = {str(one["code"]): one["name"] for one in models.classes}
    shown = [
        (str(code), names.get(str(code), given))
        for code, given in zip(codes, models.description.class_names, strict=True)
    ]
    taken: set[str] = set()
    return {
        "name": "logits",
        "tasks": ["classification"],
        "description": "Divide the log-probabilities by parcelwise:temperature of the fold; their "
        "exponentials are probabilities.",
        "result": _array(["batch", "class"], [_ANY, len(codes)]),
        "classification:classes": [
            {
                "value": index,
                # Only letters, digits, - and _ are allowed here.
                "name": unused_name(safe_name(code).replace(".", "_"), taken),
                "description": f"{code}: {name}",
            }
            for index, (code, name) in enumerate(shown)
        ],
        "post_processing_function": {
            "format": "python",
            "expression": "torch.nn.functional:log_softmax",
        },
    }


def _hyperparameters(models: TrainedModels) -> dict[str, Any]:
    """Return the architecture, and how it was trained."""
    hyperparameters: dict[str, Any] = models.description.hyperparameters.to_json()
    train = models.settings["train"]
    others = {"device", "tensorboard", "mlflow", "from"}
    return hyperparameters | {f"train.{k}": v for k, v in train.items() if k not in others}


def _assets(models: TrainedModels, folder: Path) -> dict[str, Any]:
    """Return the files of the models, one of each fold and member, and their model card."""
    assets: dict[str, Any] = {}
    for fold, files in models.files.items():
        temperature = read_temperature(files[0])
        for member, file in enumerate(files, 1):
            assets[member_file(f"fold_{fold}", member)] = {
                "href": f"./{file.relative_to(folder).as_posix()}",
                "type": "application/octet-stream; application=safetensors",
                "title": f"Weights of fold {fold}" + (f", model {member}" * (len(files) > 1)),
                "roles": ["mlm:model", "mlm:weights", "data"],
                "mlm:artifact_type": "safetensors.torch.save_file",
                "file:size": file.stat().st_size,
                "parcelwise:temperature": temperature,
                "bands": list(map(_band, models.description.bands)),
            }
    assets["model_card"] = {
        "href": "./model_card.md",
        "type": "text/markdown",
        "title": "Model card",
        "roles": ["metadata"],
    }
    return assets


def _band(name: str) -> dict[str, str]:
    common = COMMON_NAMES.get(name)
    return {"name": name} | ({} if common is None else {"eo:common_name": common})


def _rectangle(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    corners = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [corners]}
