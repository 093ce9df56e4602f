"""The masks of a run: which count, by its settings, and those of the user's own."""

from __future__ import annotations

from collections.abc import Sequence

from geo.errors import InputError
from geo.formats.mask_files import with_mask_files
from geo.imagery.acquisition import MASKS, Acquisition, first_five
from geo.imagery.cloud_masks import CloudRules
from pipeline.workflow.sections import CloudMasks
from pipeline.workflow.settings import ExtractSettings, IndexSettings

_MASK_OF = {"scl": "SCL", "cldprb": "CLDPRB", "theia": "CLM", "files": "MASK"}
_REMEDY = {
    "SCL": "Leave scl out of clouds.mask",
    "CLDPRB": "Download MSK_CLDPRB, or set clouds.max_probability to null",
    "CLM": "Leave theia out of clouds.mask",
    "MASK": "Add a file for each to the folder clouds.files, with its date in the name",
}


def cloud_rules(clouds: CloudMasks) -> CloudRules:
    """Make the rules of the settings; what these ask for by name, every acquisition must have."""
    if clouds.mask == "none":
        masks, required = [], []
    elif clouds.mask == "auto":
        asked = {"CLDPRB": clouds.max_probability is not None, "MASK": clouds.files is not None}
        required = [name for name, wanted in asked.items() if wanted]
        masks = [name for name in MASKS if name != "CLDPRB" or name in required]
    else:
        masks = required = [_MASK_OF[name] for name in clouds.mask]
    return CloudRules(
        masks=tuple(masks),
        required=tuple(required),
        classes=tuple(clouds.classes),
        theia_bits=tuple(clouds.theia_bits),
        max_probability=clouds.max_probability,
        dilation_m=clouds.dilation_m,
    )


def with_own_masks(
    found: Sequence[Acquisition], settings: IndexSettings | ExtractSettings
) -> list[Acquisition]:
    """Give acquisitions the masks of clouds.files, where that is set."""
    folder = settings.clouds.files
    return list(found) if folder is None else with_mask_files(found, folder)


def check_masks(used: Sequence[Acquisition], rules: CloudRules) -> None:
    """Check that the acquisitions have the masks that the settings ask for.

    Raises
    ------
    InputError
        If some lack one; the message names them.
    """
    for name in rules.required:
        lacking = [item.id for item in used if name in rules.missing(item)]
        if lacking:
            raise InputError(
                f"{len(lacking)} of {len(used)} acquisitions have no cloud mask {name}: "
                f"{first_five(lacking)}. {_REMEDY[name]}, or set them aside by imagery.start, "
                "imagery.end or imagery.max_cloud_fraction."
            )
