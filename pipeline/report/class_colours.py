"""Colours of the classes, the same wherever a class is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.dataset.pixel_set_dataset import PixelSetDataset

# The first seven are those of Okabe and Ito (jfly.uni-koeln.de/color). Each further colour is as
# far as possible from all colours before it and from the greys of the maps, measured in OKLab, also
# as seen with protanopia, deuteranopia and tritanopia (Machado, Oliveira and Fernandes 2009, IEEE
# Trans. Vis. Comput. Graph. 15, 1291-1298). It contrasts with a white and a black page.
COLOURS = (
    *("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#663300"),
    *("#004477", "#aa00ff", "#aa4422", "#6600bb", "#9977ee", "#eebb88", "#884455", "#bbaa99"),
    *("#555588", "#77ddff", "#cc22bb", "#880055", "#88aa66", "#8800dd", "#ee7733", "#996655"),
)
# More colours cannot be told apart: the classes with the fewest parcels share one grey.
SHARED = "#6f757d"
# The colour of parcels without prediction.
UNPREDICTED = "#c3c8cd"


def read_class_colours(dataset: PixelSetDataset, predicted: Iterable[str]) -> dict[str, str]:
    """Return the colours of the classes of a run.

    Parameters
    ----------
    dataset
        Dataset, whose classes come first, in order of the class index.
    predicted
        Codes of the predicted classes: existing weights may be trained on other classes.

    Returns
    -------
    {code: #rrggbb}.
    """
    declared = Counter(map(str, dataset.codes))
    codes = [*(str(c.code) for c in dataset.classes), *sorted(predicted)]
    return class_colours({code: declared[code] for code in codes})


def class_colours(n_parcels: Mapping[str, int]) -> dict[str, str]:
    """Assign a colour to every class.

    Parameters
    ----------
    n_parcels
        {code: number of parcels}, in order of the class index. If there are enough colours, the
        colour of a class depends only on its index.

    Returns
    -------
    {code: #rrggbb}.
    """
    largest = sorted(n_parcels, key=lambda code: -n_parcels[code])[: len(COLOURS)]
    own = [code for code in n_parcels if code in set(largest)]
    return dict.fromkeys(n_parcels, SHARED) | dict(zip(own, COLOURS, strict=False))
