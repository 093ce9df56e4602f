"""Whether the colours of classes can be told apart, also with a deficient colour vision."""

import numpy as np
import pytest

from pipeline.report.class_colours import COLOURS, SHARED, UNPREDICTED

# Machado, Oliveira and Fernandes 2009, table 1, severity 1: of linear RGB.
VISIONS = {
    "usual": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# Of linear RGB to cones, and of the cube roots of these to OKLab (Ottosson 2020).
CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
OKLAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def linear(colours):
    rgb = np.array([[*bytes.fromhex(colour[1:])] for colour in colours]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(("n", "least"), [(7, 0.071), (16, 0.071), (24, 0.056)])
def test_colours_can_be_told_apart(vision, n, least):
    """The distance of black and white is 1."""
    seen = np.clip(
        linear([*COLOURS[:n], SHARED, UNPREDICTED]) @ np.transpose(VISIONS[vision]), 0, 1
    )
    place = np.cbrt(seen @ np.transpose(CONES)) @ np.transpose(OKLAB)
    distance = np.linalg.norm(place[:, None] - place, axis=2) + np.eye(len(place))
    assert distance.min() >= least
