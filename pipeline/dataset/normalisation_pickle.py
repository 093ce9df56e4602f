"""The pickle of the normalisation values: (means, stds).

A pickle is a program for a small stack machine. Python's own machine calls any function that the
pickle names, and even numpy's `dtype` and `_frombuffer` can be made to read memory of the
attacker's choice. The machine here knows only the instructions that arrays, numbers, lists and
tuples need. It calls no function: it records type, shape and bytes, checks them, and builds plain
arrays from them.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from models.errors import InputError as ModelInputError
from models.standardisation import Normalisation
from pipeline.workflow.writing import replacing

# A real file holds two numbers per date and channel: some kilobytes.
MAX_BYTES = 1_000_000
MAX_VALUES = MAX_BYTES // 8

Values = tuple[NDArray[np.float64], NDArray[np.float64]]


def write_normalisation(path: Path, means: NDArray[np.float64], stds: NDArray[np.float64]) -> None:
    """Write the pickle of (means, stds), each of shape (), (C,) or (T, C)."""
    with replacing(path) as temporary:
        temporary.write_bytes(pickle.dumps((means, stds), protocol=4))


def read_normalisation(path: Path) -> Values:
    """Read the pickle of (means, stds) without executing anything that it names.

    The values may be numpy arrays or scalars, numbers, or lists and tuples of them, in any pickle
    protocol, from Python 2 or 3 and numpy 1 or 2.

    Returns
    -------
    means, stds
        float64, both of shape (), (C,) or (T, C).

    Raises
    ------
    InputError
        If the file is anything else, or a value is not finite or a deviation is negative.
    """
    size = path.stat().st_size
    try:
        if size > MAX_BYTES:
            _refuse(f"it has {size:,} bytes, expected at most {MAX_BYTES:,}")
        found = Normalisation(*_pair(_Machine(path.read_bytes()).run()))
    except (InputError, ModelInputError) as error:
        raise InputError(
            f"{path} cannot be used as normalisation values: {error}. Expected a pickle of (means, "
            "stds), two arrays of shape (), (C,) or (T, C). Write it again, or remove it: then "
            "the values are computed from the dataset."
        ) from None
    return found.means, found.stds


def _refuse(message: str) -> NoReturn:
    raise InputError(message)


class _Mark:
    """The start of the items of a tuple or a list."""


@dataclass(frozen=True)
class _Global:
    """The name of a function or a class, which is never looked up."""

    name: str


@dataclass
class _Type:
    """A type of numbers, such as f8; a later instruction states its byte order."""

    code: str
    order: str = ""


@dataclass
class _Array:
    """An array; for most, a later instruction states the content."""

    content: NDArray[np.float64] | None = None


_TYPES = {"f2", "f4", "f8", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))}
# As numpy 1 and 2 name their functions.
_RECONSTRUCT, _SCALAR, _FROM_BUFFER = (
    {f"numpy.core.{name}", f"numpy._core.{name}"}
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
)
# Python 3 encodes bytes in protocols 0 to 2.
_KNOWN = {"numpy.ndarray", "numpy.dtype", "_codecs.encode"} | _RECONSTRUCT | _SCALAR | _FROM_BUFFER

# Instructions that push a number of fixed size, and those that push text or bytes behind a length.
_NUMBERS = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H", pickle.BINFLOAT: ">d"}
_TEXTS = {
    pickle.SHORT_BINUNICODE: ("<B", "utf-8"),
    pickle.BINUNICODE: ("<I", "utf-8"),
    pickle.BINUNICODE8: ("<Q", "utf-8"),
    pickle.SHORT_BINSTRING: ("<B", "latin-1"),  # Python 2's strings, which are bytes
    pickle.BINSTRING: ("<i", "latin-1"),
}
_BYTES = {
    pickle.SHORT_BINBYTES: "<B",
    pickle.BINBYTES: "<I",
    pickle.BINBYTES8: "<Q",
    pickle.BYTEARRAY8: "<Q",
}
_LONGS = {pickle.LONG1: "<B", pickle.LONG4: "<i"}
_CONSTANTS = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False}
_TUPLES = {pickle.EMPTY_TUPLE: 0, pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
_PUTS = {pickle.BINPUT: "<B", pickle.LONG_BINPUT: "<I"}
_GETS = {pickle.BINGET: "<B", pickle.LONG_BINGET: "<I"}
# A string as Python 2 writes it in protocol 0.
_LITERAL = re.compile(rb"""(['"])((?:[^\\]|\\(?:[\\'"nrt]|x[0-9a-f]{2}))*)\1""", re.DOTALL)


class _Machine:
    """Run a pickle; `pickletools` says what its instructions mean."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """Run to the end of the pickle, which is the end of the file, and return its object."""
        while (code := self._read(1)) != pickle.STOP:
            self._step(code)
        if self._at != len(self._content):
            _refuse(f"it ends after {self._at} bytes, the file has {len(self._content)}")
        found = self._pop()
        if self._stack:
            _refuse("it holds more than one object")
        return found

    def _step(self, code: bytes) -> None:
        stack = self._stack
        if code in _NUMBERS:
            stack.append(self._unpacked(_NUMBERS[code]))
        elif code in _TEXTS:
            length, encoding = _TEXTS[code]
            stack.append(_decoded(self._counted(length), encoding))
        elif code in _BYTES:
            stack.append(self._counted(_BYTES[code]))
        elif code in _LONGS:
            stack.append(int.from_bytes(self._counted(_LONGS[code]), "little", signed=True))
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in _TUPLES:
            items = [self._pop() for _ in range(_TUPLES[code])]
            stack.append(tuple(items[::-1]))
        elif code in _PUTS:
            self._memo[self._unpacked(_PUTS[code])] = self._top()
        elif code in _GETS:
            stack.append(self._kept(self._unpacked(_GETS[code])))
        else:
            self._other_step(code)

    def _other_step(self, code: bytes) -> None:
        stack = self._stack
        match code:
            case pickle.PROTO:
                if (protocol := self._unpacked("<B")) > 5:
                    _refuse(f"its protocol is {protocol}, expected 0 to 5")
            case pickle.FRAME:
                self._check_rest(self._unpacked("<Q"))
            case pickle.MARK:
                stack.append(_Mark())
            case pickle.TUPLE:
                stack.append(tuple(self._since_mark()))
            case pickle.LIST:
                stack.append(self._since_mark())
            case pickle.EMPTY_LIST:
                stack.append([])
            case pickle.APPEND:
                item = self._pop()
                self._list().append(item)
            case pickle.APPENDS:
                items = self._since_mark()
                self._list().extend(items)
            case pickle.GLOBAL:
                module, name = self._line_text(), self._line_text()
                stack.append(_named(module, name))
            case pickle.STACK_GLOBAL:
                name, module = self._pop(), self._pop()
                stack.append(_named(module, name))
            case pickle.REDUCE:
                arguments, function = self._pop(), self._pop()
                stack.append(_called(function, arguments))
            case pickle.BUILD:
                state = self._pop()
                _complete(self._top(), state)
            case pickle.MEMOIZE:
                self._memo[len(self._memo)] = self._top()
            case pickle.PUT:
                self._memo[_integer(self._line_text())] = self._top()
            case pickle.GET:
                stack.append(self._kept(_integer(self._line_text())))
            case pickle.INT:
                # Protocols 0 and 1 write False and True as the numbers 00 and 01.
                text = self._line_text()
                stack.append(text == "01" if text in ("00", "01") else _integer(text))
            case pickle.LONG:
                stack.append(_integer(self._line_text().removesuffix("L")))
            case pickle.FLOAT:
                stack.append(_float(self._line_text()))
            case pickle.STRING:
                stack.append(_literal(self._line()))
            case pickle.UNICODE:
                stack.append(_decoded(self._line(), "raw-unicode-escape"))
            case _:
                _refuse(
                    f"it holds other objects than arrays (instruction {code!r} at byte "
                    f"{self._at - 1})"
                )

    def _check_rest(self, n: int) -> None:
        if not 0 <= n <= len(self._content) - self._at:
            _refuse(
                f"it is cut off or damaged: it states {n} bytes from byte {self._at} on, and has "
                f"{len(self._content) - self._at}"
            )

    def _read(self, n: int) -> bytes:
        self._check_rest(n)
        self._at += n
        return self._content[self._at - n : self._at]

    def _unpacked(self, form: str) -> Any:
        (value,) = struct.unpack(form, self._read(struct.calcsize(form)))
        return value

    def _counted(self, length: str) -> bytes:
        return self._read(self._unpacked(length))

    def _line(self) -> bytes:
        end = self._content.find(b"\n", self._at)
        if end < 0:
            _refuse(f"it is cut off or damaged: no line ends after byte {self._at}")
        return self._read(end + 1 - self._at)[:-1]

    def _line_text(self) -> str:
        return _decoded(self._line(), "ascii")

    def _top(self) -> Any:
        if not self._stack or isinstance(self._stack[-1], _Mark):
            _refuse(f"it is damaged: there is nothing to work on at byte {self._at}")
        return self._stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self._stack.pop()

    def _since_mark(self) -> list[Any]:
        items: list[Any] = []
        while self._stack:
            if isinstance(item := self._stack.pop(), _Mark):
                return items[::-1]
            items.append(item)
        _refuse(f"it is damaged: no mark before byte {self._at}")

    def _list(self) -> list[Any]:
        if not isinstance(found := self._top(), list):
            _refuse("it appends to something that is not a list")
        return found

    def _kept(self, place: int) -> object:
        if place not in self._memo:
            _refuse(f"it is damaged: it refers to an object {place} that it does not have")
        return self._memo[place]


def _decoded(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        _refuse("a text in it is damaged")


def _literal(line: bytes) -> str:
    if (match := _LITERAL.fullmatch(line)) is None:
        _refuse("a string in it is damaged")
    return match[2].decode("unicode-escape")


def _integer(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        _refuse(f"{text[:30]!r} in it is not an integer")
    return int(text)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        _refuse(f"{text[:30]!r} in it is not a number")


def _named(module: object, name: object) -> _Global:
    full = f"{module}.{name}"
    if not isinstance(module, str) or not isinstance(name, str) or full not in _KNOWN:
        _refuse(f"it holds {full[:100]}; only numpy arrays are read")
    return _Global(full)


def _called(function: object, arguments: object) -> object:
    """Return the object that a call of a known function stands for, without calling it."""
    name = function.name if isinstance(function, _Global) else ""
    if name == "numpy.dtype":
        match arguments:
            case (str(code), _, _) if code in _TYPES:
                return _Type(code)
            case (code, *_):
                _refuse(f"it has arrays of the type {str(code)[:20]!r}, not of floats or integers")
    if name in _RECONSTRUCT:
        match arguments:
            case (_Global("numpy.ndarray"), _, _):
                return _Array()
    if name == "_codecs.encode":
        match arguments:
            case (str(text), _):
                return _as_bytes(text)
    if name in _SCALAR:
        match arguments:
            case (kind, data):
                return _Array(_array(data, kind, (), "C"))
    if name in _FROM_BUFFER:
        match arguments:
            case (data, kind, shape, order):
                return _Array(_array(data, kind, shape, order))
    _refuse("it makes an object in another way than numpy does")


def _complete(value: object, state: object) -> None:
    """Set the byte order of a type or the content of an array, from the state that numpy wrote."""
    match value, state:
        case _Type(order=""), (3, "<" | ">" | "|" as order, None, None, None, -1, -1, 0):
            value.order = order
        case _Array(content=None), (1, shape, kind, False | True | 0 | 1 as fortran, data):
            value.content = _array(data, kind, shape, "F" if fortran else "C")
        case _:
            _refuse("it has an array that is not as numpy writes it")


def _array(data: object, kind: object, shape: object, order: object) -> NDArray[np.float64]:
    """Build an array, float64, from its bytes, its type of numbers, its shape and its order."""
    content = _as_bytes(data) if isinstance(data, str) else data
    if not isinstance(content, bytes) or not isinstance(kind, _Type) or order not in ("C", "F"):
        _refuse("it has an array that is not as numpy writes it")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        _refuse("it has an array without a shape")
    # One-byte numbers have no byte order.
    dtype = np.dtype(f"{kind.order.replace('|', '') or '='}{kind.code}")
    if len(shape) > 2 or math.prod(shape) * dtype.itemsize != len(content):
        _refuse(f"it has an array of shape {str(shape)[:50]} in {len(content)} bytes")
    values = np.frombuffer(content, dtype).reshape(shape, order="F" if order == "F" else "C")
    with np.errstate(invalid="ignore"):  # NaN is refused later
        return values.astype(np.float64)


def _as_bytes(text: str) -> bytes:
    """Return bytes that were written as text, a character each."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        _refuse("it has an array that is not as numpy writes it")


def _pair(found: object) -> Values:
    """Return the two arrays."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        _refuse(f"it holds {_kind_of(found)}, expected two values")
    return _values(found[0]), _values(found[1])


def _values(found: object, axes: int = 2) -> NDArray[np.float64]:
    """Return an array, a number, or a list of them as an array of at most this many axes."""
    if isinstance(found, _Array) and found.content is not None and found.content.ndim <= axes:
        return found.content
    if isinstance(found, int | float) and not isinstance(found, bool):
        try:
            return np.asarray(float(found))
        except OverflowError:
            _refuse("it has a number that is too large")
    if not isinstance(found, tuple | list) or not found or axes == 0:
        _refuse(f"it has {_kind_of(found)} in place of numbers")
    # A pickle can refer to one long list many times, at two bytes each.
    if sum(_size(item) for item in found) > MAX_VALUES:
        _refuse(f"it has more than {MAX_VALUES:,} values")
    rows = [_values(item, axes - 1) for item in found]
    if any(row.shape != rows[0].shape for row in rows):
        _refuse("it has lists of different lengths")
    return np.stack(rows)


def _size(found: object) -> int:
    if isinstance(found, tuple | list):
        return len(found)
    return found.content.size if isinstance(found, _Array) and found.content is not None else 1


def _kind_of(found: object) -> str:
    if isinstance(found, tuple | list):
        return f"a {type(found).__name__} of {len(found)}"
    ours = {_Array: "an array", _Type: "a type of numbers", _Global: "a name"}
    return ours.get(type(found), f"{type(found).__name__}: {str(found)[:30]!r}")
