"""Settings read, checked before any work starts, and cut to what each stage may see.

A rule passes a stage its own settings on the command line, so that a run's settings are those of
its start: no file that a later call of Snakemake could rewrite lies between them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from geo.errors import InputError
from pipeline.workflow.settings import Settings

_MASKS = tuple(
    f"clouds.{key}"
    for key in ("mask", "classes", "theia_bits", "max_probability", "files", "dilation_m")
)

# What each stage may see. Snakemake reruns a stage when one of these changes, and nothing else
# can have an effect on it: the other settings are not there when it runs.
USED_BY: dict[str, tuple[str, ...]] = {
    "simulate": ("simulate",),
    "index": ("imagery", "parcels.layer", *_MASKS),
    "clean": (
        *(f"parcels.{key}" for key in ("path", "layer", "id", "duplicate_ids")),
        *(f"parcels.{key}" for key in ("all_touched", "min_covered_fraction", "buffer_m")),
        *("parcels.min_area_m2", "parcels.partly_outside"),
    ),
    "rasterise": (
        *("parcels.all_touched", "parcels.min_covered_fraction", "parcels.buffer_m"),
        "parcels.min_pixels",
    ),
    "extract": ("imagery.bands", "imagery.resampling", *_MASKS),
    "assemble": ("imagery.bands", "clouds", "assemble", "parcels.min_pixels"),
    "label": (
        *("parcels.labels", "parcels.nomenclature", "parcels.classes", "parcels.other_class"),
        *("parcels.unknown_codes", "split.folds", "predict.weights"),
    ),
    "names": ("parcels.names",),
    "export": ("dataset.npy_files", "assemble.memory_mb"),
    "features": (),
    "ingest": ("dataset", "imagery.bands", "split.folds", "predict.weights"),
    "normalise": ("normalise",),
    "split": ("split",),
    "train": ("model", "train"),
    "evaluate": ("train.device", "predict.batch_size", "split.seed"),
    "predict": (
        *("run", "model", "train.device", "train.pixels", "predict", "split.folds"),
        *("parcels.layer", "parcels.id", "parcels.labels"),
    ),
    "report": ("report",),
}


def load(values: Mapping[str, Any]) -> Settings:
    """Check raw settings, as read from YAML.

    Raises
    ------
    InputError
        If a key is unknown or a value out of range; the message names every one.
    """
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        raise InputError("These settings cannot be used:\n  " + "\n  ".join(lines)) from None


def read(*paths: Path) -> Settings:
    """Read settings, a user's own or those of a finished run; what is not set has its default.

    Of several files each is laid over those before it, as Snakemake does.

    Raises
    ------
    InputError
        If a file is missing or no YAML, or its settings cannot be used.
    """
    values: dict[str, Any] = {}
    for path in paths:
        if not path.is_file():
            raise InputError(
                f"There is no settings file {path}. Give your own, or that of a finished run, "
                "results/<run>/config.yaml."
            )
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no YAML: {error}") from None
        if not isinstance(found, dict):
            raise InputError(
                f"{path} holds no settings but {str(found)[:50]!r}: write them as `section:`, and "
                "below it `  key: value`, as in configs/default.yaml."
            )
        values = _laid_over(values, found)
    return load(values)


def _laid_over(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over others, section by section."""
    merged = dict(values)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            value = _laid_over(below, value)
        merged[key] = value
    return merged


def for_stage(settings: Settings, stage: str) -> dict[str, Any]:
    """Cut settings to what a stage may see, as plain values: its rerun trigger."""
    values = _narrowed(settings, stage).model_dump(mode="json")
    cut: dict[str, Any] = {}
    for key in USED_BY[stage]:
        section, _, name = key.partition(".")
        if name:
            cut.setdefault(section, {})[name] = values[section][name]
        else:
            cut[section] = values[section]
    return cut


def view(settings: Settings, stage: str) -> Settings:
    """Give only the settings that a stage may see; any other raises AttributeError on access."""
    visible, settings = SimpleNamespace(), _narrowed(settings, stage)
    for key in USED_BY[stage]:
        section, _, name = key.partition(".")
        whole = getattr(settings, section)
        if not name:
            setattr(visible, section, whole)
            continue
        if not hasattr(visible, section):
            setattr(visible, section, SimpleNamespace())
        setattr(getattr(visible, section), name, getattr(whole, name))
    return cast(Settings, visible)


def _narrowed(settings: Settings, stage: str) -> Settings:
    """Leave predict only the columns of the register that the nomenclatures name.

    What a table of codes makes of a column concerns label alone.
    """
    if stage != "predict":
        return settings
    parcels = settings.parcels.model_copy(update={"labels": settings.parcels.register_labels})
    return settings.model_copy(update={"parcels": parcels})


def as_json(value: Any) -> str:
    """Write settings, or one of them, as one line of JSON: how a rule passes them to its stage."""
    return json.dumps(value, ensure_ascii=False)


def read_json(text: str) -> Settings:
    """Read settings from the JSON of `as_json`; what it lacks has its default.

    Raises
    ------
    InputError
        If the text is not a JSON object, or its settings cannot be used.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--settings is not JSON ({error}): {text[:50]!r}") from None
    if not isinstance(values, dict):
        raise InputError(f"--settings is not a JSON object: {text[:50]!r}")
    return load(values)


def _explain(error: ErrorDetails) -> str:
    """Say one validation error with its key, what was found, and what is known."""
    location = ".".join(str(part) for part in error["loc"] if not str(part).startswith("Frequent"))
    if error["type"] == "extra_forbidden":
        known = _known_keys(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"{location}: unknown setting; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    found = "" if isinstance(error["input"], dict) else f", found {error['input']!r}"
    return f"{location or 'settings'}: {message}{found}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """List the keys of the section at a location."""
    section: type[BaseModel] = Settings
    for part in location:
        field = section.model_fields.get(str(part))
        models = [field.annotation] if field else []
        models += list(get_args(field.annotation)) if field else []
        section = next(
            (m for m in models if isinstance(m, type) and issubclass(m, BaseModel)), section
        )
    return list(section.model_fields)
