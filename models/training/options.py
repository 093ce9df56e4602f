"""How to train, checked."""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import InputError
from models.training.augmentation import Augmentation

OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "onecycle", "cosine")
CLASS_WEIGHTINGS = ("none", "balanced")
INITIALISATIONS = ("paper", "torch")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainingSettings:
    """Say how to train. There are no defaults here: who trains decides.

    Attributes
    ----------
    epochs, batch_size
        Passes over the training parcels, and parcels in a batch.
    n_pixels
        Pixels drawn of every parcel, at most.
    always_pad
        Whether to pad every parcel to n_pixels where none has so many, as the reference does.
    learning_rate, weight_decay, optimizer
        The optimizer is "adam" or "adamw".
    schedule
        "constant" learning rate, "onecycle" up to it and down again, or "cosine" down from it.
    gamma
        Exponent of the focal loss.
    class_weighting
        "none", or "balanced": by the inverse of the classes' frequencies.
    initialisation
        "paper", or "torch", see `initialise_weights`.
    jitter_sigma, jitter_clip, date_dropping, shift_days
        Random changes of training parcels, see `Augmentation`.
    ema_decay
        Decay of the exponential moving average of the weights, which is kept in their place; 0 for
        none.
    patience
        Stop after so many epochs without a better validation mIoU; None to run them all.
    precision
        On a GPU: "float32", "bfloat16" where it is precise enough, or "auto": the latter where the
        GPU computes in it. A CPU always computes in float32.
    seed
        Seed of initial weights, order, pixel draws, jitter and dropout.

    Raises
    ------
    InputError
        If a value is outside its range.
    """

    epochs: int
    batch_size: int
    n_pixels: int
    always_pad: bool
    learning_rate: float
    weight_decay: float
    optimizer: str
    schedule: str
    gamma: float
    class_weighting: str
    initialisation: str
    jitter_sigma: float
    jitter_clip: float
    date_dropping: float
    shift_days: int
    ema_decay: float
    patience: int | None
    precision: str
    seed: int

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("class_weighting", CLASS_WEIGHTINGS),
            ("initialisation", INITIALISATIONS),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name}: expected one of {allowed}, found {getattr(self, name)!r}"
                )
        for name, least in (("epochs", 1), ("batch_size", 2), ("n_pixels", 1), ("patience", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise InputError(f"{name}: expected {least} or more, found {value}")
        if self.learning_rate <= 0:
            raise InputError(f"learning_rate: expected above 0, found {self.learning_rate}")
        for name in ("weight_decay", "gamma", "jitter_sigma", "jitter_clip", "shift_days"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        for name in ("date_dropping", "ema_decay"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise InputError(f"{name}: expected 0 to below 1, found {value}")

    @property
    def augmentation(self) -> Augmentation:
        """The random changes of training parcels."""
        return Augmentation(
            self.jitter_sigma, self.jitter_clip, self.date_dropping, self.shift_days
        )
