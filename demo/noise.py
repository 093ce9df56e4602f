"""Random fields of the simulation: fractal noise, and the blur of the optics."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def fractal_field(
    shape: tuple[int, int], roughness: float, rng: np.random.Generator, largest: float = 1e9
) -> Floats:
    """Draw a field whose power falls with frequency, of mean 0 and standard deviation 1.

    Parameters
    ----------
    shape
        Rows and columns.
    roughness
        Exponent of the amplitude: 1 is rough, 2 is smooth.
    rng
        Source of the phases.
    largest
        Longest wavelength in pixels.

    Returns
    -------
    NDArray[np.float32]
        The field. It is periodic: draw it larger than needed if that matters.
    """
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    frequency = np.hypot(rows, columns)
    power = np.where(frequency < 1 / largest, 0, np.maximum(frequency, 1e-9) ** -roughness)
    power[0, 0] = 0
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * power, s=shape)
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)


def blur(image: Floats, sigma: float) -> Floats:
    """Blur the last two axes by a Gaussian of `sigma` pixels, repeating the edge pixels."""
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (-2, -1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (radius, radius)
        padded = np.pad(image, pad, mode="edge")
        size = image.shape[axis]
        image = np.zeros_like(image)
        for i, weight in enumerate(weights):
            image += weight * np.take(padded, range(i, i + size), axis=axis)
    return image


def block_mean(image: Floats, size: int) -> Floats:
    """Average blocks of `size` x `size` pixels of the last two axes."""
    *front, rows, columns = image.shape
    blocks = image.reshape(*front, rows // size, size, columns // size, size)
    # As numpy's mean of two axes, in a third of the time: its loops over so few pixels are short.
    total = sum(sum(blocks[..., i, :, j] for j in range(size)) for i in range(size))
    return np.asarray(total / np.float32(size * size), dtype=np.float32)
