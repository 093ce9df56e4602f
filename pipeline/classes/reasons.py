"""Every reason for which something is not used, with the words that people read.

The code of a reason stands in tables; its words stand in the report and in `parcelwise inspect`.
"""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """What becomes of a row of the register."""

    USED = "used", "Learnt from, and predicted by a model that had not seen it"
    PREDICT_ONLY = "predict_only", "Not learnt from, but predicted"
    REJECTED = "rejected", "Set aside: no prediction"

    words: str

    def __new__(cls, code: str, words: str = "") -> Status:
        """Make a member of its code, and keep its words."""
        member = str.__new__(cls, code)
        member._value_, member.words = code, words
        return member


class Reason(StrEnum):
    """Why a parcel is not trained on: a row of the register has the first that applies."""

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
    GIVEN_WEIGHTS = (
        "given_weights",
        "by models that were trained elsewhere",
        Status.PREDICT_ONLY,
    )

    words: str
    status: Status

    def __new__(cls, code: str, words: str = "", status: Status = Status.REJECTED) -> Reason:
        """Make a member of its code, and keep its words and what it makes of the parcel."""
        member = str.__new__(cls, code)
        member._value_, member.words, member.status = code, words, status
        return member


# The outline cannot be used, so that nothing else is known of the row.
WITHOUT_POLYGON = (
    Reason.NULL_GEOMETRY,
    Reason.EMPTY_GEOMETRY,
    Reason.NOT_A_POLYGON,
    Reason.INVALID_GEOMETRY,
)


class ClassReason(StrEnum):
    """Why a declared class is not trained on."""

    TOO_RARE = "too_rare", "too few parcels", Reason.CLASS_TOO_RARE
    NOT_LISTED = "not_listed", "not among those asked for", Reason.CLASS_NOT_LISTED

    words: str
    of_parcels: Reason

    def __new__(
        cls, code: str, words: str = "", of_parcels: Reason = Reason.NO_LABEL
    ) -> ClassReason:
        """Make a member of its code, and keep its words and the reason of its parcels."""
        member = str.__new__(cls, code)
        member._value_, member.words, member.of_parcels = code, words, of_parcels
        return member


class AcquisitionReason(StrEnum):
    """Why an acquisition is not used, or how it is."""

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

    words: str

    def __new__(cls, code: str, words: str = "") -> AcquisitionReason:
        """Make a member of its code, and keep its words."""
        member = str.__new__(cls, code)
        member._value_, member.words = code, words
        return member
