"""The sections from the dataset to the report.

The defaults of settings that depend on the recipe of training are in recipes/<recipe>.yaml.
"""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    create_model,
    model_validator,
)

from pipeline.workflow.sections.parcels import Classes, FrequentClasses
from pipeline.workflow.sections.values import Code, LocalPath, Positive, Section, Widths

_RECIPES = Path(__file__).parents[1] / "recipes"
RECIPES = tuple(sorted(path.stem for path in _RECIPES.glob("*.yaml")))
Recipe = Literal[RECIPES]  # type: ignore[valid-type]


@cache
def read_recipe(name: str) -> dict[str, dict[str, Any]]:
    """Read a recipe: {"model": {"name": ...}, "train": {setting: value}}."""
    recipe: dict[str, dict[str, Any]] = yaml.safe_load(
        (_RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    )
    return recipe


class Dataset(Section):
    """The Pixel-Set dataset: how to write it, or an existing one instead of imagery and parcels.

    The metadata of an existing dataset take precedence over these settings.
    """

    path: LocalPath | None = None
    """existing dataset: folder of DATA/<id>.npy, META/labels.json, dates.json ..."""

    paths: Annotated[list[LocalPath], Field(min_length=2)] | None = None
    """several existing datasets in place of one, such as two seasons or regions:
    [results/a/dataset, results/b/dataset]. Their bands must be the same; each keeps its dates
    """

    bands: Annotated[list[str], Field(min_length=1)] | None = None
    """bands of its channels, in order; null: those in META/dataset.json, otherwise imagery.bands"""

    reflectance_scale: Annotated[float, Field(gt=0)] | None = None
    """factor from stored values to reflectance; null: 0.0001 for integers and 1 for floats"""

    nomenclature: str | None = None
    """nomenclature of its labels.json; null: the first"""

    names: LocalPath | None = None
    """CSV with columns code,name: class names of the nomenclature"""

    classes: Classes = Field(default_factory=lambda: FrequentClasses())
    """as in parcels"""

    other_class: Code | None = None
    """as in parcels"""

    npy_files: bool = True
    """write DATA and VALID with one .npy file per parcel; false: skip them, for millions of parcels

    """

    @property
    def sources(self) -> list[Path]:
        """The existing datasets that the run starts from; [] for imagery and parcels."""
        return [self.path] if self.path is not None else self.paths or []


class Assemble(Section):
    """How the dataset is assembled."""

    memory_mb: Positive = 1000
    """MB of pixels in memory at a time"""


class Normalise(Section):
    """How reflectance is normalised."""

    by: Literal["all", "channel", "date_channel"] = "channel"
    """one mean and standard deviation per: all (a single one) | channel | date_channel"""


DivideBy = Literal["random", "stratified", "block", "group", "dataset"]
# The settings of the section split that only one way of dividing reads.
DIVISION_SETTINGS = {"block": "block_m", "group": "column"}


class Split(Section):
    """How the folds are made."""

    folds: Annotated[int, Field(ge=2)] = 5
    """number of folds"""

    by: DivideBy = "random"
    """random | stratified (the same class shares in every fold) | block (whole squares of land, so
    that neighbours are in the same fold) | group (parcels with the same value in a column, such as
    those of a farm, are in the same fold) | dataset (each of dataset.paths, such as a season, is
    the test part of one fold; a fifth of the others validates)
    """

    also: DivideBy | None = None
    """a second way, such as block: models are trained and scored for it, too, and the report
    compares both; the predictions do not use them. null: off
    """

    block_m: Annotated[float, Field(gt=0)] | Literal["auto"] = 2000.0
    """metres: side of the squares; auto: the distance over which parcels are alike (see
    docs/guide/folds.md)
    """

    column: str | None = None
    """column of the register with the groups; for an existing dataset a key of META/groups.json,
    {column: {id: value}}. Each parcel without a value is a group by itself
    """

    seed: int = 1
    """seed of the random generator"""

    @property
    def ways(self) -> list[str]:
        """The ways in which the parcels are divided: `by`, and `also` if it is set."""
        return [self.by, *([] if self.also is None else [self.also])]


class Model(Section):
    """The architecture, under the names of the papers."""

    # Its default is that of the recipe, see `Settings`.
    name: Literal["psetae", "pseltae"]
    """psetae (Pixel-Set Encoder + temporal attention, the first paper) | pseltae (with lightweight
    temporal attention, which scored higher in all our comparisons, see docs/accuracy.md). Existing
    weights name their own model
    """

    geometric_features: bool = True
    """also use perimeter, pixel count, cover ratio and perimeter over surface"""

    pooling: str = "mean_std"
    """statistics over pixels: mean, std, min, max, joined by _"""

    mlp1: Widths = Field(
        default=[10, 32, 64],
        json_schema_extra={
            "above": "Widths of the layers, as the papers print them. The first width of each MLP "
            "and the last one of mlp4 follow from the data, and these values are ignored. null: as "
            "in the paper of the model."
        },
    )
    """MLP over the channels of each pixel"""

    mlp2: Widths = [132, 128]
    """MLP after pooling"""

    mlp3: Widths | None = None
    """MLP after attention: [512, 128, 128] in psetae, [256, 128] in pseltae"""

    mlp4: Widths = [128, 64, 32, 20]
    """decoder: MLP to the classes"""

    n_head: Positive | None = None
    """attention heads: 4 in psetae, 16 in pseltae"""

    d_k: Positive | None = None
    """width of the keys: 32 in psetae, 8 in pseltae"""

    d_model: Positive | None = None
    """width of the attention: that of mlp2 in psetae, 256 in pseltae"""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """dropout rate after attention"""

    T: Positive = 1000
    """days: period of the positional encoding"""

    positions: Literal["days", "order"] = "days"
    """input of the positional encoding: days | order (1, 2, ... in order of the dates)"""

    season_start: Annotated[str, Field(pattern=r"^(0\d|1[0-2])-[0-3]\d$")] | None = None
    """MM-DD: day 0, in the year of the first date; null: the first date"""

    @model_validator(mode="after")
    def _check(self) -> Model:
        unknown = set(self.pooling.split("_")) - {"mean", "std", "min", "max"}
        if unknown:
            raise ValueError(f"pooling joins mean, std, min and max by _, found {self.pooling!r}")
        if self.season_start is not None:
            # 2019 is not a leap year: the day must exist in every year.
            date.fromisoformat(f"2019-{self.season_start}")
        return self


# Python does not allow `from` as the name of an attribute in the body of a class.
_START = (
    "weights to start from in place of random ones: folder of Fold_<k>/model.pth.tar of another "
    "run. Their model, normalisation and day 0 are used; classes may differ, bands may not"
)
if TYPE_CHECKING:
    _StartedTraining = Section
else:
    _StartedTraining = create_model(
        "_StartedTraining",
        __base__=Section,
        **{"from": (LocalPath | None, Field(default=None, description=_START))},
    )


class Train(_StartedTraining):
    """How a fold is trained."""

    recipe: Recipe = "default"
    """default (for your own data, chosen by experiments) | paper (the protocol of the PSE+TAE
    paper, and its model if model.name is null)
    """
    # The settings up to ema_decay have no default here, because the recipe has one.
    epochs: Positive
    """passes over the training parcels"""

    min_steps: Annotated[int, Field(ge=0)]
    """more epochs for few parcels, until there are at least this many steps; 0: off, as it is if
    epochs is set
    """

    batch_size: Annotated[int, Field(ge=2)]
    """parcels in a batch"""

    pixels: Positive
    """pixels drawn from a parcel in each step; if all training parcels have fewer, recipe default
    pads to the largest of them, and recipe paper to this number
    """

    members: Positive
    """models per fold; their log-probabilities are averaged"""

    optimizer: Literal["adam", "adamw"]
    """adam | adamw"""

    learning_rate: Annotated[float, Field(gt=0)]
    """constant learning rate, peak of onecycle, or start of cosine"""

    schedule: Literal["constant", "onecycle", "cosine"]
    """learning rate over the epochs: constant | onecycle | cosine"""

    weight_decay: Annotated[float, Field(ge=0)]
    """weight decay of the optimizer"""

    gamma: Annotated[float, Field(ge=0)]
    """exponent of the focal loss; 0 is cross-entropy"""

    class_weighting: Literal["none", "balanced"]
    """weights of classes in the loss: none | balanced (inverse to their frequency)"""

    initialisation: Literal["paper", "torch"]
    """initial weights: torch (PyTorch's defaults) | paper (as in the reference)"""

    jitter_sigma: Annotated[float, Field(ge=0)]
    """standard deviation of the noise added to normalised reflectance, ..."""

    jitter_clip: Annotated[float, Field(ge=0)]
    """... and its maximum"""

    date_dropping: Annotated[float, Field(ge=0, lt=1)]
    """probability of leaving out a date in a training step"""

    shift_days: Annotated[int, Field(ge=0)]
    """maximum number of days by which the dates of a parcel are shifted"""

    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    """decay of the moving average of weights over the steps, such as 0.99; 0: off"""

    keep: Literal["best", "last"]
    """epoch to keep: last (the validation part of each fold is trained on, too) | best (by mean IoU
    on the validation part, a rough measure if it is small; for a constant learning rate, and the
    default if patience is set)
    """

    patience: Positive | None = None
    """stop after this many epochs without a better one; null: train all epochs"""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """on a GPU: auto | float32 | bfloat16; a CPU always uses float32"""

    tensorboard: bool = False
    """true: write results/<run>/tensorboard for TensorBoard"""

    seed: Annotated[int, Field(ge=0)] = 1
    """seed of the random generators"""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto | cpu | cuda | cuda:1 ...; on a cluster, only cuda requests a GPU"""

    @model_validator(mode="before")
    @classmethod
    def _follow_recipe(cls, values: Any) -> Any:
        """Take the value of the recipe for each setting that is absent or null."""
        if not isinstance(values, dict):
            return values
        stated = {key: value for key, value in values.items() if value is not None}
        if "epochs" in stated:
            stated = {"min_steps": 0, **stated}
        if "patience" in stated:
            stated = {"keep": "best", **stated}
        return {**read_recipe(known_recipe(stated))["train"], **stated}

    @model_validator(mode="after")
    def _check(self) -> Train:
        if self.patience is not None and self.keep == "last":
            raise ValueError("patience: without effect if keep is last. Set keep to best")
        return self

    @property
    def start(self) -> Path | None:
        """The setting `from`."""
        return getattr(self, "from")  # type: ignore[no-any-return]


def known_recipe(train: dict[str, Any]) -> str:
    """Return the recipe of the section `train`, or "default": a wrong one is refused elsewhere."""
    recipe = train.get("recipe")
    return recipe if recipe in RECIPES else "default"


class Predict(Section):
    """How classes are predicted."""

    weights: LocalPath | None = None
    """existing weights to use instead of training: folder of Fold_<k>/model.pth.tar, ours or the
    reference's. For the reference's, set model and train.pixels accordingly
    """

    batch_size: Positive = 256
    """parcels in a batch"""

    set_error: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """prediction sets: share of the parcels of a class whose set may lack it; a smaller one makes
    larger sets
    """

    false_alarms: Annotated[float, Field(gt=0, le=0.2)] = 0.02
    """greatest share of the declarations of a class that get the verdict CONFLICT, and so of the
    true ones that get it by mistake; DOUBT: five times this share
    """

    code_list: str | None = None
    """address of a CSV of the class codes, for the crop extension of fiboa"""


class Areas(Section):
    """Crop areas, with confidence intervals where the labelled parcels are a random sample."""

    sample: Literal["unknown", "random"] = "unknown"
    """how the labelled parcels were chosen: unknown (only mapped and declared areas are given) |
    random (by chance from all parcels, or from those of each stratum: areas are estimated)
    """

    strata: str | None = None
    """column of the register within whose values the parcels were drawn; null: from all parcels"""

    region: str | None = None
    """column of the register by whose values areas are also given; null: only in total"""

    @model_validator(mode="after")
    def _check(self) -> Areas:
        if self.strata is not None and self.sample != "random":
            raise ValueError(
                "strata is without effect unless sample is random: set sample, or remove strata"
            )
        return self

    @property
    def columns(self) -> dict[str, str]:
        """The columns of the register that are used: {setting: column}."""
        named = {"areas.strata": self.strata, "areas.region": self.region}
        return {setting: column for setting, column in named.items() if column is not None}


class Check(Section):
    """Which declarations to check: a work list, and a random sample to assess the verdicts."""

    visits: Positive | None = None
    """most declarations in the work list; null: all with the verdict CONFLICT or DOUBT"""

    margin: Annotated[float, Field(ge=0.01, lt=0.5)] = 0.1
    """sample: half width, at most, of the 95 % interval of the share of wrong declarations, for
    each verdict; a smaller one makes a larger sample
    """

    seed: int = Field(default=1, ge=0)
    """seed of the sample"""


class Report(Section):
    """The report."""

    compare: list[str] = []
    """names of other runs to compare this run's scores with"""

    attention: bool = True
    """measure and show on which dates the models look, and whether predictions depend on them;
    false: off, for many parcels on a slow machine (it takes about as long as predict)
    """

    mlflow: bool = False
    """true: also add settings, the metrics of every epoch and the scores to results/mlflow.db, for
    MLflow, which must be installed (see README)
    """


class Simulate(Section):
    """The simulated scene."""

    size_m: Annotated[int, Field(ge=1280)] = 5120
    """metres: side of the square scene, a multiple of 20"""

    acquisitions: Annotated[int, Field(ge=3)] = 24
    """number of dates between March and October"""

    parcels: Annotated[int, Field(ge=50)] = 1000
    """number of parcels without defects; some with defects are added"""

    seed: int = 1
    """seed of the random generators"""
