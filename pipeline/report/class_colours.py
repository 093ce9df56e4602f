"""Colours of the classes, the same one wherever a class is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.dataset.pixel_set_dataset import PixelSetDataset

# Okabe and Ito's seven (jfly.uni-koeln.de/color) come first. Each further one is about as far as
# can be (in OKLab, also as seen with deuteranopia and protanopia) from all before it and from the
# greys of the maps, and stands out from both a white and a black page.
COLOURS = (
    *("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#6d3d31"),
    *("#612486", "#8679ff", "#6dce92", "#9e3d79", "#003dc2", "#9e4900", "#4955e7", "#6dff9e"),
    *("#9eceff", "#ff496d", "#6d92db", "#793161", "#86c2c2", "#e7c224", "#c23155", "#316d49"),
)
# More colours than these cannot be told apart: the classes with the fewest parcels share one grey.
SHARED = "#6f757d"
# The colour of parcels without prediction.
UNPREDICTED = "#c3c8cd"


def read_class_colours(dataset: PixelSetDataset, predicted: Iterable[str]) -> dict[str, str]:
    """Return the colours of the classes of a run.

    Parameters
    ----------
    dataset
        Whose classes come first, in order of the class index.
    predicted
        Codes of the predicted classes: models from elsewhere may have learnt others.

    Returns
    -------
    {code: #rrggbb}.
    """
    declared = Counter(str(code) for code in dataset.codes.values())
    codes = [*(str(c.code) for c in dataset.classes), *sorted(predicted)]
    return class_colours({code: declared[code] for code in codes})


def class_colours(n_parcels: Mapping[str, int]) -> dict[str, str]:
    """Give every class its colour.

    Parameters
    ----------
    n_parcels
        {code: number of parcels}, in order of the class index. As long as there are enough
        colours, a class's colour depends on its index alone.

    Returns
    -------
    {code: #rrggbb}.
    """
    largest = sorted(n_parcels, key=lambda code: -n_parcels[code])[: len(COLOURS)]
    own = [code for code in n_parcels if code in set(largest)]
    return dict.fromkeys(n_parcels, SHARED) | dict(zip(own, COLOURS, strict=False))
