"""Answers of Sentinel Hub: request.json beside response.tiff tells the dates and the bands.

The Python package sentinelhub writes both into a folder whose name is a digest of the request
(sentinelhub/download/models.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from geo.documents import read_json
from geo.errors import InputError, reading
from geo.formats.dates import Period, middle

_REMEDY = "Request it again with save_data=True, or rename response.tiff to its date."
_RETURN = re.compile(r"return\s*(?:\{\s*\w+\s*:\s*)?\[(.*?)\]", re.DOTALL)
# sample.B02, 10000 * sample.B02, samples[0].B02 * 1e4, sample["B02"]
_NUMBER = r"\d+(?:\.\d+)?(?:e\d+)?"
_SAMPLE = re.compile(
    rf"(?:(?P<before>{_NUMBER})\s*\*\s*)?\w+(?:\[0\])?(?:\.|\[[\"'])(?P<band>\w+)(?:[\"']\])?"
    rf"(?:\s*\*\s*(?P<after>{_NUMBER}))?"
)
# Without a type, or with AUTO, bytes are stretched (documentation of evalscript, sampleType).
_SAMPLE_TYPE = re.compile(r"sampleType\s*:\s*(?:SampleType\.|[\"'])(?!AUTO)\w+", re.IGNORECASE)
_UNITS = re.compile(r"units\s*:\s*\[?\s*[\"'](\w+)[\"']", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """A request.

    Parameters
    ----------
    path
        The file.
    first, last
        First and last day of its images.
    layers
        Bands of the answer, in order; None if the script computes something else.
    scale
        Reflectance of one number of the answer, None if the script does not tell.
    is_stretched
        Whether reflectance 0 to 1 is written as 0 to 255 if the answer consists of bytes.
    is_harmonised
        Whether the offset of processing baseline 04.00 is taken out of the pixels.
    """

    path: Path
    first: date
    last: date
    layers: tuple[str, ...] | None
    scale: float | None
    is_stretched: bool
    is_harmonised: bool

    def day(self, period: Period | None) -> date:
        """Return the day of the image, of composites the middle of the days asked for.

        Raises
        ------
        InputError
            If several days were asked for, and the settings do not say that these are composites.
        """
        if period is None and self.first < self.last:
            raise InputError(
                f"{self.path} asks for one image of {self.first} to {self.last}, whose day is "
                "unknown. Request each day, or, if it is a composite of these days, set "
                "imagery.convention: {period: month}."
            )
        return middle(self.first, self.last)

    def scale_of(self, dtype: str) -> float | None:
        """Return the reflectance of one number of an answer of a data type, None if unknown."""
        if self.scale is not None and self.is_stretched and dtype == "uint8":
            return self.scale / 255
        # Integers cannot be reflectance 0 to 1: the script does not tell what they are.
        return None if self.scale == 1 and "int" in dtype else self.scale


def read_request(path: Path) -> Request:
    """Read a request.json.

    Raises
    ------
    InputError
        If it is missing, or does not describe images of some days.
    """
    if not path.is_file():
        raise InputError(f"There is no {path}, which tells the date and the bands. {_REMEDY}")
    content = read_json(path, "a request of Sentinel Hub", _REMEDY)
    with reading(path, "a request of Sentinel Hub", _REMEDY):
        request = content.get("request", content)
        payload = request.get("payload", request)
        data = payload["input"]["data"][0]
        times = data["dataFilter"]["timeRange"]
        first, last = (
            datetime.fromisoformat(times[end]).replace(tzinfo=None) for end in ("from", "to")
        )
        script = str(payload["evalscript"])
        harmonised = str(data.get("processing", {}).get("harmonizeValues", True))
    if last < first:
        raise InputError(f"{path} asks for {first} to {last}, the end before the start. {_REMEDY}")
    # An end at midnight is the end of the day before.
    is_midnight = last.time() == datetime.min.time() and last.date() > first.date()
    last_day = date.fromordinal(last.date().toordinal() - is_midnight)
    layers, scale = _layers(script)
    return Request(
        *(path, first.date(), last_day, layers, scale),
        is_stretched=_SAMPLE_TYPE.search(script) is None,
        is_harmonised=harmonised.lower() != "false",
    )


def _layers(script: str) -> tuple[tuple[str, ...] | None, float | None]:
    """Return what the layers of an answer are by its script, and the reflectance of one number."""
    script = re.sub(r"//[^\n]*|/\*.*?\*/", "", script, flags=re.DOTALL)
    returned = _RETURN.search(script.partition("evaluatePixel")[2])
    samples = (
        [_SAMPLE.fullmatch(text.strip()) for text in returned[1].split(",")] if returned else []
    )
    found = [sample for sample in samples if sample is not None]
    if not found or len(found) < len(samples):
        return None, None
    factors = {
        float(sample["before"] or sample["after"] or 1)
        for sample in found
        if re.fullmatch(r"B\d[\dA]", sample["band"])
    }
    units = _UNITS.search(script)
    of_unit = 1e-4 if units is not None and units[1].upper() == "DN" else 1.0
    scale = of_unit / factors.pop() if len(factors) == 1 and 0 not in factors else None
    return tuple(sample["band"] for sample in found), scale
