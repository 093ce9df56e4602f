"""Descriptions of a dataset, and of the inputs and classes of a model, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError, expect
from models.hyperparameters import Hyperparameters, is_size
from models.pixel_sets import PixelSets
from models.standardisation import FeatureScaling, Normalisation


@dataclass(frozen=True, eq=False)
class DataDescription:
    """Meaning of the numbers in a dataset, which a model needs to be used on other data.

    Attributes
    ----------
    bands
        Names of the channels, in order.
    class_codes, class_names
        Codes and names of the classes, in order of the class index.
    first_date
        Date of day 0.
    normalisation
        Normalisation of the pixels.
    dates
        The dates of the observations; None if they are not known.
    """

    bands: list[str]
    class_codes: list[int | str]
    class_names: list[str]
    first_date: date
    normalisation: Normalisation
    dates: Sequence[date] | None = None


@dataclass(frozen=True, eq=False)
class ModelDescription:
    """Inputs and classes of the models of a fold: the content of `model.json`.

    Attributes
    ----------
    hyperparameters, normalisation, feature_scaling
        Of the models. The scaling is None if they use no features.
    n_pixels
        Largest number of pixels to draw from a parcel. It may be more than any training parcel had:
        the prediction of a larger parcel is better with more of its pixels.
    bands
        Names of the channels, in order.
    class_codes, class_names
        Codes and names of the classes, in order of the class index.
    first_date
        ISO date of day 0.
    seed
        Seed of the training.
    members
        Number of models of the fold.
    versions
        Versions of the software that trained them.
    dates
        ISO dates of the training, in order of time; None if they are not known, as in files of
        earlier versions and for models of the reference.
    started_from
        Folder of the model whose weights the training started from; None for random weights.

    Raises
    ------
    InputError
        If the attributes contradict each other.
    """

    hyperparameters: Hyperparameters
    normalisation: Normalisation
    feature_scaling: FeatureScaling | None
    n_pixels: int
    bands: list[str]
    class_codes: list[int | str]
    class_names: list[str]
    first_date: str
    seed: int
    members: int
    versions: dict[str, str]
    dates: list[str] | None = None
    started_from: str | None = None

    def __post_init__(self) -> None:
        h, shape = self.hyperparameters, self.normalisation.means.shape
        _check_texts("bands", self.bands)
        _check_texts("class_names", self.class_names)
        # Codes keep their type: 12 is not "12".
        _check_texts("class_codes", self.class_codes, or_numbers=True)
        n_features = 0 if self.feature_scaling is None else len(self.feature_scaling.means)
        lengths = {"bands": h.input_dim, "class_codes": h.n_classes, "class_names": h.n_classes}
        for name, n in lengths.items():
            expect(len(values := getattr(self, name)) == n, name, n, len(values))
        channels = f"values of {h.input_dim} channels"
        fits = shape[-1:] in {(), (h.input_dim,)}
        expect(fits, "normalisation", channels, f"the shape {shape}")
        features = f"{h.extra_size} features"
        expect(n_features == h.extra_size, "feature_scaling", features, n_features)
        for name in ("n_pixels", "members"):
            value = getattr(self, name)
            expect(is_size(value), name, "a positive whole number", repr(value))
        expect(_is_date(self.first_date), "first_date", "YYYY-MM-DD", repr(self.first_date))
        held = isinstance(self.started_from, str | None)
        expect(held, "started_from", "a path", repr(self.started_from)[:100])
        if self.dates is not None:
            _check_texts("dates", self.dates)
            wrong = [day for day in self.dates if not _is_date(day)]
            expect(not wrong, "dates", "YYYY-MM-DD", repr(wrong[:1]))

    @classmethod
    def of(
        cls,
        about: DataDescription,
        hyperparameters: Hyperparameters,
        feature_scaling: FeatureScaling | None,
        *,
        n_pixels: int,
        seed: int,
        members: int,
        versions: dict[str, str],
        started_from: str | None = None,
    ) -> ModelDescription:
        """Describe models that were trained on the described data."""
        dates = None if about.dates is None else [day.isoformat() for day in about.dates]
        return cls(
            **vars(about) | {"first_date": about.first_date.isoformat(), "dates": dates},
            hyperparameters=hyperparameters,
            feature_scaling=feature_scaling,
            n_pixels=n_pixels,
            seed=seed,
            members=members,
            versions=versions,
            started_from=started_from,
        )

    @classmethod
    def of_reference(
        cls,
        weights: Mapping[str, tuple[int, ...]],
        about: DataDescription,
        features: NDArray[np.float64] | None,
        *,
        n_pixels: int,
        pooling: str,
        T: int,  # noqa: N803 - the papers' name
        positions: str,
    ) -> ModelDescription:
        """Describe a model of the reference by its weights, as its own inference script uses it.

        Parameters
        ----------
        weights
            {name: shape}.
        about
            The dataset to predict, which is assumed to be like the training data.
        features
            float64 (N, F), features of all parcels, by which they are standardised (ddof 1); None
            if the dataset has none.
        n_pixels
            Largest number of pixels to draw from a parcel.
        pooling, T, positions
            Hyper-parameters that do not follow from the shapes.

        Raises
        ------
        InputError
            If the weights are not those of a PSE+TAE or PSE+L-TAE, or do not fit the dataset.
        """
        h = Hyperparameters.of_weights(weights, pooling=pooling, T=T, positions=positions)
        check_reference(h, len(about.class_codes), about.bands)
        scaling = None
        if h.extra_size:
            if features is None or features.shape[1] != h.extra_size:
                found = "none" if features is None else features.shape[1]
                raise InputError(
                    f"it takes {h.extra_size} geometric features, META/geomfeat.json of the "
                    f"dataset has {found} for each parcel."
                )
            scaling = FeatureScaling.fit(features)
        about = replace(about, dates=None)  # those of its training are not known
        return cls.of(about, h, scaling, n_pixels=n_pixels, seed=0, members=1, versions={})

    def check_fits(self, data: PixelSets) -> None:
        """Check that the models can predict these parcels.

        Raises
        ------
        InputError
            If their channels or features are not those of the models, or their dates, for models
            with a fixed number of dates. The message follows a name of the models.
        """
        h = self.hyperparameters
        if data.n_channels != h.input_dim:
            raise InputError(f"takes {h.input_dim} channels, the dataset has {data.n_channels}.")
        if self.feature_scaling is not None and data.n_features != h.extra_size:
            raise InputError(
                f"was trained with {h.extra_size} geometric features of each parcel, the dataset "
                f"has {data.n_features}."
            )
        try:
            self.normalisation.check_fits(data.n_dates, data.n_channels)
        except InputError as error:
            raise InputError(f"does not fit the dataset: {error}.") from None
        if h.n_dates is not None and (h.n_dates != data.n_dates or data.observed is not None):
            raise InputError(
                f"normalises {h.n_dates} dates together, as the reference's L-TAE does, so it "
                "needs this number of dates, the same for all parcels. The dataset "
                f"has {data.n_dates}."
            )

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as JSON values."""
        scaling = self.feature_scaling
        values = dict(vars(self))
        if self.started_from is None:
            del values["started_from"]
        return values | {
            "hyperparameters": self.hyperparameters.to_json(),
            "normalisation": self.normalisation.to_json(),
            "feature_scaling": None if scaling is None else scaling.to_json(),
        }

    @classmethod
    def from_json(cls, values: object) -> ModelDescription:
        """Read back what `to_json` returned."""
        expected = set(cls.__dataclass_fields__)
        # Earlier versions did not write the dates; most trainings start from random weights.
        if not isinstance(values, dict) or {*values, "dates", "started_from"} != expected:
            found = ", ".join(sorted(values)) if isinstance(values, dict) else repr(values)
            raise InputError(
                f"expected the keys {', '.join(sorted(expected))}; found {found[:200] or 'none'}"
            )
        scaling = values["feature_scaling"]
        return cls(
            **values
            | {
                "hyperparameters": Hyperparameters.from_json(values["hyperparameters"]),
                "normalisation": Normalisation.from_json(values["normalisation"]),
                "feature_scaling": None if scaling is None else FeatureScaling.from_json(scaling),
            }
        )


def check_alike(models: Mapping[str, ModelDescription]) -> None:
    """Check that models have the same bands, classes and day 0.

    Parameters
    ----------
    models
        {folder: description}.

    Raises
    ------
    InputError
        If one differs from the first.
    """
    if not models:
        return
    first = next(iter(models))
    for name, description in models.items():
        for what, key in (("bands", "bands"), ("classes", "class_codes"), ("day 0", "first_date")):
            found, expected = (getattr(model, key) for model in (description, models[first]))
            if found != expected:
                raise InputError(
                    f"{name} was trained with other {what} than {first}: {_shown(found)} instead "
                    f"of {_shown(expected)}. Use models of one training together."
                )


def _check_texts(name: str, values: object, *, or_numbers: bool = False) -> None:
    kinds: tuple[type, ...] = (str, int) if or_numbers else (str,)
    what = "texts or whole numbers" if or_numbers else "texts"
    # The exact type is compared, because True is an int.
    holds = isinstance(values, list) and all(type(value) in kinds for value in values)
    expect(holds, name, f"a list of {what}", str(values)[:100])


def _is_date(text: object) -> bool:
    try:
        date.fromisoformat(str(text))
    except ValueError:
        return False
    return isinstance(text, str)


def _shown(value: list[int | str] | str) -> str:
    return value if isinstance(value, str) else ", ".join(map(str, value))


def check_reference(h: Hyperparameters, n_classes: int, bands: Sequence[str]) -> None:
    """Check that a model of the reference has the classes and channels that settings name.

    Raises
    ------
    InputError
        If it does not. The message follows a name of the model.
    """
    if h.n_classes != n_classes:
        raise InputError(
            f"it predicts {h.n_classes} classes, the settings name {n_classes}. List their codes "
            "in parcels.classes or dataset.classes, in the order of its training."
        )
    if h.input_dim != len(bands):
        raise InputError(
            f"it takes {h.input_dim} channels, the dataset has {len(bands)}: {', '.join(bands)}."
        )
