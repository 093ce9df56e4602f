"""Every reason why a parcel, a class or an acquisition is not used, with its wording.

Tables contain the code of a reason; the report and `parcelwise inspect` show the wording.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class _Worded(StrEnum):
    """A code with its wording; members are written as code, wording and, optionally, what follows.

    Attributes
    ----------
    words
        The wording.
    follows
        What the reason results in, another enumeration; None if nothing is written.
    """

    words: str
    follows: Any

    def __new__(cls, code: str, words: str = "", follows: Any = None) -> _Worded:
        """Make a member from its code, and store wording and result with it."""
        member = str.__new__(cls, code)
        member._value_, member.words, member.follows = code, words, follows
        return member


class Status(_Worded):
    """The status of a row of the register."""

    USED = "used", "Trained on, and predicted by a model that was not trained on it"
    PREDICT_ONLY = "predict_only", "Not trained on, but predicted"
    REJECTED = "rejected", "Rejected: no prediction"


class Reason(_Worded):
    """Why a parcel is not trained on: a row of the register gets the first reason that applies."""

    NULL_GEOMETRY = "null_geometry", "no geometry"
    EMPTY_GEOMETRY = "empty_geometry", "an empty geometry"
    NOT_A_POLYGON = "not_a_polygon", "a point or a line, not a polygon"
    INVALID_GEOMETRY = "invalid_geometry", "an outline that encloses no area, even when mended"
    MISSING_ID = "missing_id", "no parcel id"
    DUPLICATE_ID = "duplicate_id", "an id that an earlier row already has"
    OUTSIDE_IMAGERY = "outside_imagery", "outside the imagery"
    PARTLY_OUTSIDE = "partly_outside", "across the edge of the imagery"
    TOO_SMALL = "too_small", "too small: less area than required"
    TOO_FEW_PIXELS = "too_few_pixels", "too small: fewer pixels than required"
    NO_PIXELS = "no_pixels", "without pixels or dates in the dataset"
    NEVER_CLEAR = "never_seen_clearly", "cloudy or nodata on every date"
    TOO_FEW_PIXELS_OBSERVED = "too_few_pixels_observed", "fewer clear pixels than required"
    NO_LABEL = "no_label", "no declared class", Status.PREDICT_ONLY
    CLASS_TOO_RARE = "class_too_rare", "its class has too few parcels", Status.PREDICT_ONLY
    CLASS_NOT_LISTED = "class_not_listed", "its class is not listed", Status.PREDICT_ONLY
    CLASS_UNKNOWN = (
        "class_unknown_to_weights",
        "its class is unknown to the existing weights",
        Status.PREDICT_ONLY,
    )
    EXISTING_WEIGHTS = "given_weights", "predicted by existing weights", Status.PREDICT_ONLY

    @property
    def status(self) -> Status:
        """The status of the parcel: rejected, unless written otherwise."""
        return Status.REJECTED if self.follows is None else Status(self.follows)


# The outline cannot be used, so the row has neither tile nor pixels.
WITHOUT_POLYGON = (
    Reason.NULL_GEOMETRY,
    Reason.EMPTY_GEOMETRY,
    Reason.NOT_A_POLYGON,
    Reason.INVALID_GEOMETRY,
)


class ClassReason(_Worded):
    """Why a declared class is not trained on."""

    TOO_RARE = "too_rare", "too few parcels", Reason.CLASS_TOO_RARE
    NOT_LISTED = "not_listed", "not listed", Reason.CLASS_NOT_LISTED
    UNKNOWN = "unknown_to_weights", "unknown to the existing weights", Reason.CLASS_UNKNOWN

    @property
    def of_parcels(self) -> Reason:
        """The reason of the class's parcels."""
        return Reason(self.follows)


class AcquisitionReason(_Worded):
    """Why an acquisition is not used, or how it is used."""

    OTHER_TILE = "other_tile", "of another tile"
    BEFORE_START = "before_start", "before imagery.start"
    AFTER_END = "after_end", "after imagery.end"
    OTHER_GRID = "other_grid", "on another pixel grid"
    MISPLACED = "misplaced", "too far from the others of its tile"
    DAMAGED = "damaged", "damaged, or without a band"
    SUPERSEDED = "superseded", "replaced by a newer version"
    SAME_DAY = "same_day", "less complete than another one of the same day"
    TOO_CLOUDY = "too_cloudy", "too cloudy"
    NO_PARCELS = "no_parcels", "of a tile without parcels"
    MERGED = "merged", "completes another one of the same day"
