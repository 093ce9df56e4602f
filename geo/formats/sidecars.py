"""What the metadata beside images, their tags and their names say about the processing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from geo.formats.archives import FileName
from geo.formats.conventions import baseline_in, offset_of_baseline
from geo.imagery.acquisition import BANDS
from geo.imagery.imagery_files import files_ending

# Metadata of the product that files were made from, beside them: MTD_MSIL2A.xml, MTD_TL.xml,
# <name of the file>_MTD.xml; of AWS metadata.xml, tileInfo.json, productInfo.json. Only these
# elements are looked for, so the XML is not parsed.
_SIDECAR = re.compile(
    r"(?:(?P<stem>.+)_)?MTD(?:_\w+)?|(?:product_?)?metadata|tileInfo|productInfo", re.IGNORECASE
)
_SIDECAR_BASELINE = re.compile(
    r"<PROCESSING_BASELINE[^>]*>\s*(\d\d\.\d\d)|_N(\d\d\.\d\d)\s*</TILE_ID>"
)
_SIDECAR_OFFSET = re.compile(
    r'<(?:BOA|RADIO)_ADD_OFFSET\s+band_id="(\d+)"\s*>\s*(-?\d+(?:\.\d+)?)\s*<'
)
_MAX_SIDECAR = 20_000_000  # bytes; real ones have less than 1 MB


@dataclass(frozen=True)
class Processing:
    """What names and files beside an acquisition say about its processing.

    Parameters
    ----------
    baseline
        "04.00", None if unknown.
    offsets
        Digital numbers that are added, by band, as the product's metadata list them.
    """

    baseline: str | None = None
    offsets: Mapping[str, float] = field(default_factory=dict)

    def offset_of(self, band: str) -> float:
        """Return the offset of a band whose file states none."""
        return self.offsets.get(band, offset_of_baseline(self.baseline))


class Folders:
    """The metadata files in folders; each folder is listed once, however many images it has.

    Parameters
    ----------
    is_only_acquisition
        Function that returns whether a folder contains no other acquisition. Metadata that do not
        begin with the name of a file belong to all files of a folder.
    """

    def __init__(self, is_only_acquisition: Callable[[Path], bool]) -> None:
        self.is_only_acquisition = cache(is_only_acquisition)
        self.metadata = cache(self._metadata)

    @staticmethod
    def _metadata(folder: Path) -> list[tuple[Path, str | None]]:
        """Return the metadata files in a folder, and the name of a file that theirs begin with."""
        named = ((f, _SIDECAR.fullmatch(f.stem)) for f in files_ending(folder, (".xml", ".json")))
        return [(file, match["stem"]) for file, match in named if match is not None]


def processing_of(
    files: Sequence[FileName], tags: Iterable[str | None], folders: Folders
) -> Processing:
    """Return the processing of an acquisition by metadata beside its files, by tags, or by names.

    Parameters
    ----------
    files
        Its files.
    tags
        Baselines in their tags.
    folders
        The folders of all files.
    """
    beside = _sidecar(files, folders)
    in_names = (baseline_in(name) for file in files for name in reversed(file.path.parts[-9:]))
    stated = (beside.baseline, *tags, *in_names)
    return replace(beside, baseline=next(filter(None, stated), None))


def _sidecar(files: Sequence[FileName], folders: Folders) -> Processing:
    """Read the metadata beside the files of an acquisition, if there are any."""
    stems = [file.group[1] for file in files]
    texts, baselines = [], []
    for folder in dict.fromkeys(f for file in files for f in (file.path.parent, file.group[0])):
        for path, stem in folders.metadata(folder):
            is_own = stem is not None and any(name.startswith(stem) for name in stems)
            if is_own or (stem is None and folders.is_only_acquisition(folder)):
                with path.open(encoding="utf-8", errors="replace") as file:
                    texts.append(file.read(_MAX_SIDECAR))
                if path.suffix.lower() == ".json":
                    baselines.append(baseline_in(texts[-1]))
    text = "\n".join(texts)
    baseline = _SIDECAR_BASELINE.search(text)
    in_xml = (baseline[1] or baseline[2]) if baseline else None
    return Processing(
        baseline=next(filter(None, (in_xml, *baselines)), None),
        offsets={
            BANDS[int(number)]: float(offset)
            for number, offset in _SIDECAR_OFFSET.findall(text)
            if int(number) < len(BANDS)
        },
    )
