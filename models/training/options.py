"""The settings of a training, checked."""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import expect
from models.training.augmentation import Augmentation

OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "onecycle", "cosine")
CLASS_WEIGHTINGS = ("none", "balanced")
INITIALISATIONS = ("paper", "torch")
KEPT = ("best", "last")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training. They have no defaults: the caller sets all of them.

    Attributes
    ----------
    epochs, min_steps, batch_size
        Passes over the training parcels, or more if that would be fewer than `min_steps` steps;
        and parcels in a batch.
    n_pixels
        Largest number of pixels to draw from a parcel.
    always_pad
        Whether to pad every parcel to n_pixels (as the reference does) even if no parcel has as
        many.
    learning_rate, weight_decay, optimizer
        Settings of the optimizer, and its name: "adam" or "adamw".
    schedule
        "constant" learning rate, "onecycle" (rises to it, then falls) or "cosine" (falls from it).
    gamma
        Exponent of the focal loss.
    class_weighting
        "none", or "balanced" (inverse of the class frequency).
    initialisation
        "paper" or "torch", see `initialise_weights`.
    jitter_sigma, jitter_clip, date_dropping, shift_days, random_end
        Random changes of training parcels, see `Augmentation`.
    ema_decay
        Decay of the exponential moving average of the weights, which is validated and saved instead
        of the last weights; 0 for none.
    keep
        The epoch to return: "best" (by validation mIoU) or "last", which needs no validation part.
    patience
        Epochs without a better validation mIoU after which the training stops; None to never stop
        early.
    precision
        On a GPU: "float32", "bfloat16" (autocast: operations that need float32 keep it), or "auto"
        (bfloat16 if the GPU supports it). A CPU always computes in float32.
    seed
        Seed of the initial weights, the order of parcels, pixel draws, random changes and dropout.

    Raises
    ------
    InputError
        If a value is outside its range.
    """

    epochs: int
    min_steps: int
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
    random_end: bool
    ema_decay: float
    keep: str
    patience: int | None
    precision: str
    seed: int

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("class_weighting", CLASS_WEIGHTINGS),
            ("initialisation", INITIALISATIONS),
            ("keep", KEPT),
            ("precision", PRECISIONS),
        ):
            value = getattr(self, name)
            expect(value in allowed, name, f"one of {allowed}", repr(value))
        for name, least in (("epochs", 1), ("batch_size", 2), ("n_pixels", 1), ("patience", 1)):
            value = getattr(self, name)
            expect(value is None or value >= least, name, f"{least} or more", value)
        expect(
            self.keep == "best" or self.patience is None,
            *("patience", "null if the last epoch is kept", self.patience),
        )
        expect(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        for name in (
            *("min_steps", "weight_decay", "gamma", "jitter_sigma", "jitter_clip", "shift_days"),
        ):
            value = getattr(self, name)
            expect(value >= 0, name, "0 or more", value)
        for name in ("date_dropping", "ema_decay"):
            value = getattr(self, name)
            expect(0 <= value < 1, name, "0 to below 1", value)

    def epochs_of(self, n_batches: int) -> int:
        """Return the number of epochs of a training with this many batches in each."""
        return max(self.epochs, -(-self.min_steps // n_batches))

    @property
    def augmentation(self) -> Augmentation:
        """The random changes of training parcels."""
        return Augmentation(
            self.jitter_sigma,
            self.jitter_clip,
            self.date_dropping,
            self.shift_days,
            self.random_end,
        )
