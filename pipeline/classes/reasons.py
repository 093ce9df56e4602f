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

    USED = "used", "Learnt from, and predicted by a model that had not seen it"
    PREDICT_ONLY = "predict_only", "Not learnt from, but predicted"
    REJECTED = "rejected", "Set aside: no prediction"


class Reason(_Worded):
    """Why a parcel is not trained on: a row of the register gets the first reason that applies."""

    NULL_GEOMETRY = "null_geometry", "no geometry"
    EMPTY_GEOMETRY = "empty_geometry", "an empty geometry"
    NOT_A_POLYGON = "not_a_polygon", "a point or a line, not a polygon"
    INVALID_GEOMETRY = "invalid_geometry", "an outline that encloses no area, even when mended"
    MISSING_ID = "missing_id", "no parcel id"
    DUPLICATE_ID = "duplicate_id", "an id that an earlier row has already"
    OUTSIDE_IMAGERY = "outside_imagery", "outside the imagery"
    PARTLY_OUTSIDE = "partly_outside", "across the edge of the imagery"
    TOO_SMALL = "too_small", "too small: less area than asked for"
    TOO_FEW_PIXELS = "too_few_pixels", "too small: fewer pixels than asked for"
    NO_PIXELS = "no_pixels", "without pixels or dates in the dataset"
    NEVER_SEEN_CLEARLY = "never_seen_clearly", "under cloud or without data on every date"
    TOO_FEW_PIXELS_OBSERVED = (
        "too_few_pixels_observed",
        "fewer pixels seen clearly on any date than asked for",
    )
    NO_LABEL = "no_label", "no declared class", Status.PREDICT_ONLY
    CLASS_TOO_RARE = (
        "class_too_rare",
        "its class has too few parcels to learn from",
        Status.PREDICT_ONLY,
    )
    CLASS_NOT_LISTED = (
        "class_not_listed",
        "its class is not among those asked for",
        Status.PREDICT_ONLY,
    )
    EXISTING_WEIGHTS = (
        "given_weights",
        "by models that were trained elsewhere",
        Status.PREDICT_ONLY,
    )

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
    NOT_LISTED = "not_listed", "not among those asked for", Reason.CLASS_NOT_LISTED

    @property
    def of_parcels(self) -> Reason:
        """The reason of the class's parcels."""
        return Reason(self.follows)


class AcquisitionReason(_Worded):
    """Why an acquisition is not used, or how it is used."""

    OTHER_TILE = "other_tile", "of another tile"
    BEFORE_START = "before_start", "before the first date asked for"
    AFTER_END = "after_end", "after the last date asked for"
    OTHER_GRID = "other_grid", "on another pixel grid"
    DAMAGED = "damaged", "damaged, or without a band"
    SUPERSEDED = "superseded", "processed anew, and used as such"
    SAME_DAY = "same_day", "less complete than another of the same day"
    TOO_CLOUDY = "too_cloudy", "too cloudy"
    NO_PARCELS = "no_parcels", "of a tile without parcels"
    MERGED = "merged", "completes another of the same day"
