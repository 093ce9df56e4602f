"""Decode windows of a JPEG 2000 codestream with OpenJPEG, the library that GDAL decodes with.

GDAL does not offer OpenJPEG's decoding of windows for tiled files (`bUseSetDecodeArea` in
frmts/opjlike/jp2opjlikedataset.cpp), so the few functions of its C interface are called here.
"""

from __future__ import annotations

import ctypes
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from ctypes import c_int, c_int32, c_int64, c_size_t, c_uint16, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

# First and last row, first and last column of a window in the coordinates of the codestream; the
# last ones are not part of it.
Box = tuple[int, int, int, int]

# Their structures are those below (openjpeg.h; no ABI break is announced between them).
_KNOWN_VERSIONS = {(2, 4), (2, 5)}

_CODESTREAM = 0  # OPJ_CODEC_J2K: without the boxes of a JP2 file
_END = c_size_t(-1).value  # of the input, as a read function returns it
# sizeof(opj_dparameters_t) is about 8.5 kB: two file names of 4,096 bytes and some numbers.
_PARAMETERS_SIZE = 65_536
_BUFFER_SIZE = 4096


class _Component(ctypes.Structure):
    """opj_image_comp_t."""

    _fields_ = [
        *((name, c_uint32) for name in ("dx", "dy", "w", "h", "x0", "y0", "prec", "bpp", "sgnd")),
        *((name, c_uint32) for name in ("resno_decoded", "factor")),
        ("data", ctypes.POINTER(c_int32)),
        ("alpha", c_uint16),
    ]


class _Image(ctypes.Structure):
    """opj_image_t."""

    _fields_ = [
        *((name, c_uint32) for name in ("x0", "y0", "x1", "y1", "numcomps")),
        ("color_space", c_int),
        ("comps", ctypes.POINTER(_Component)),
        ("icc_profile_buf", c_void_p),
        ("icc_profile_len", c_uint32),
    ]


_ImagePointer = ctypes.POINTER(_Image)
_Read = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_size_t, c_void_p)
_Skip = ctypes.CFUNCTYPE(c_int64, c_int64, c_void_p)
_Seek = ctypes.CFUNCTYPE(c_int, c_int64, c_void_p)

# Name: result, arguments.
_FUNCTIONS: dict[str, tuple[Any, Sequence[Any]]] = {
    "opj_version": (ctypes.c_char_p, ()),
    "opj_create_decompress": (c_void_p, (c_int,)),
    "opj_set_default_decoder_parameters": (None, (c_void_p,)),
    "opj_setup_decoder": (c_int, (c_void_p, c_void_p)),
    "opj_destroy_codec": (None, (c_void_p,)),
    "opj_stream_create": (c_void_p, (c_size_t, c_int)),
    "opj_stream_set_read_function": (None, (c_void_p, _Read)),
    "opj_stream_set_skip_function": (None, (c_void_p, _Skip)),
    "opj_stream_set_seek_function": (None, (c_void_p, _Seek)),
    "opj_stream_set_user_data_length": (None, (c_void_p, c_uint64)),
    "opj_stream_destroy": (None, (c_void_p,)),
    "opj_read_header": (c_int, (c_void_p, c_void_p, ctypes.POINTER(_ImagePointer))),
    "opj_set_decode_area": (c_int, (c_void_p, _ImagePointer, *[c_int32] * 4)),
    "opj_decode": (c_int, (c_void_p, c_void_p, _ImagePointer)),
    "opj_image_destroy": (None, (_ImagePointer,)),
}


@cache
def openjpeg() -> Any:
    """Return the OpenJPEG of this machine, None if there is none of a known version.

    It is the one that rasterio brings along, or else that of the environment or of the system,
    which GDAL uses too. If there is none, the log says so once.
    """
    for name in _names():
        with suppress(OSError, AttributeError):  # cannot be loaded, lacks a function
            library = ctypes.CDLL(name)
            for function, (result, arguments) in _FUNCTIONS.items():
                getattr(library, function).restype = result
                getattr(library, function).argtypes = arguments
            version = re.match(rb"(\d+)\.(\d+)", library.opj_version())
            if version and (int(version[1]), int(version[2])) in _KNOWN_VERSIONS:
                return library
    logger.info(
        "No OpenJPEG of a known version was found: whole blocks of JPEG 2000 files are decoded, "
        "which takes longer where parcels are few."
    )
    return None


def _names() -> Iterator[str]:
    """Yield the places where OpenJPEG may be, the one that rasterio's GDAL uses first."""
    package = Path(rasterio.__file__).parent
    for folder in (
        package.with_name("rasterio.libs"),  # in wheels for Linux and Windows
        package / ".dylibs",  # in wheels for macOS
        Path(sys.prefix, "lib"),  # conda
        Path(sys.prefix, "Library", "bin"),
    ):
        yield from map(str, sorted(folder.glob("*openjp2*")))
    from ctypes.util import find_library  # rarely needed

    if name := find_library("openjp2"):
        yield name


def decode(
    codestream: bytes, extent: Box, windows: Sequence[Box]
) -> list[NDArray[np.int32]] | None:
    """Decode windows of a codestream of one tile and one component; can be called from any thread.

    Code-blocks that a window shares with the one before it are decoded once.

    Parameters
    ----------
    codestream
        From the marker SOC to EOC (ISO/IEC 15444-1, annex A).
    extent
        Its image area.
    windows
        Parts of the extent. The whole extent can be decoded only as the last of them.

    Returns
    -------
    list of int32 arrays of shape (rows, columns), or None
        None if there is no OpenJPEG, or it does not decode this codestream.
    """
    library = openjpeg()
    if library is None:
        return None
    with ExitStack() as stack:
        stream = _open(library, codestream, stack)
        codec = library.opj_create_decompress(_CODESTREAM)
        stack.callback(library.opj_destroy_codec, codec)
        parameters = ctypes.create_string_buffer(_PARAMETERS_SIZE)
        library.opj_set_default_decoder_parameters(parameters)
        image = _ImagePointer()
        stack.callback(library.opj_image_destroy, image)
        if not (
            library.opj_setup_decoder(codec, parameters)
            and library.opj_read_header(stream, codec, ctypes.byref(image))
            and _extent(image) == extent
        ):
            return None
        found = []
        for top, bottom, left, right in windows:
            if not (
                library.opj_set_decode_area(codec, image, left, top, right, bottom)
                and library.opj_decode(codec, stream, image)
            ):
                return None
            component, shape = image.contents.comps[0], (bottom - top, right - left)
            if (component.h, component.w) != shape or not component.data:
                return None
            found.append(np.ctypeslib.as_array(component.data, shape).copy())
        return found


def _open(library: Any, content: bytes, stack: ExitStack) -> Any:
    """Return a stream that reads from memory; it is closed with the stack."""
    position, size = 0, len(content)
    source = ctypes.cast(ctypes.c_char_p(content), c_void_p).value or 0

    def read(target: int, count: int, _: None) -> int:
        nonlocal position
        count = min(count, size - position)
        if count <= 0:
            return _END
        ctypes.memmove(target, source + position, count)
        position += count
        return count

    def skip(count: int, _: None) -> int:
        nonlocal position
        count = max(min(count, size - position), -position)
        position += count
        return count

    def seek(place: int, _: None) -> int:
        nonlocal position
        position = max(min(place, size), 0)
        return int(position == place)

    functions = _Read(read), _Skip(skip), _Seek(seek)
    # Larger pieces than the buffer are read past it.
    stream = library.opj_stream_create(_BUFFER_SIZE, 1)
    library.opj_stream_set_read_function(stream, functions[0])
    library.opj_stream_set_skip_function(stream, functions[1])
    library.opj_stream_set_seek_function(stream, functions[2])
    library.opj_stream_set_user_data_length(stream, size)
    # The functions and the content live as long as the stream.
    stack.callback(lambda *_: library.opj_stream_destroy(stream), functions, content)
    return stream


def _extent(image: Any) -> Box | None:
    """Return the image area of a codestream with one component that is not subsampled."""
    if not image or image.contents.numcomps != 1:
        return None
    component = image.contents.comps[0]
    if (component.dx, component.dy) != (1, 1):
        return None
    area = image.contents
    return area.y0, area.y1, area.x0, area.x1
