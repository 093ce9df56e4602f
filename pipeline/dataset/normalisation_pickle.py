"""Write and read the pickle of the normalisation values, (means, stds), without executing it.

A pickle is a program for a small stack machine. Python's own machine calls every function that the
pickle names. Even if it allows only numpy's functions, `dtype` and `_frombuffer` can be made to
read arbitrary memory.

The machine here runs only the instructions that arrays, numbers, lists and tuples need, and calls
no function. Where the pickle calls a function of numpy, the machine records the type, shape and
bytes of the array, checks them, and builds a plain array itself. `pickletools`, of the standard
library, reads the arguments of the instructions; it executes nothing.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from models.errors import InputError as ModelInputError
from models.standardisation import Normalisation
from pipeline.workflow.artefacts import remedy_for
from pipeline.workflow.paths import writer_of
from pipeline.workflow.writing import replacing

# A real file has two numbers per date and channel: some kilobytes.
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
        If the file contains anything else, a value is not finite or a deviation is negative.
    """
    size = path.stat().st_size
    try:
        if size > MAX_BYTES:
            _refuse(f"it has {size:,} bytes, expected at most {MAX_BYTES:,}")
        pair = _Machine().run(path.read_bytes())
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            _refuse(f"it contains {_kind_of(pair)}, expected two values")
        values = Normalisation(_values(pair[0]), _values(pair[1]))
    except (InputError, ModelInputError) as error:
        raise InputError(
            f"{path} cannot be used as normalisation values: {error}. Expected a pickle of (means, "
            f"stds), two arrays of shape (), (C,) or (T, C). {_remedy(path)}"
        ) from None
    return values.means, values.stds


def _remedy(path: Path) -> str:
    """Return what to do about a pickle of a run, or one that was made elsewhere."""
    if writer_of(path) is not None:
        return remedy_for(path)
    return "Write it again, or remove it: then the values are computed from the dataset."


def _refuse(message: str) -> NoReturn:
    raise InputError(message)


# What the machine has on its stack besides numbers, texts, bytes, lists and tuples.


class _Mark:
    """The place on the stack where the items of a tuple or a list begin."""


@dataclass(frozen=True)
class _Global:
    """The name of a function or a class. It is never imported."""

    name: str


@dataclass
class _Type:
    """A numpy type such as f8; a later instruction sets its byte order."""

    code: str
    order: str = ""


@dataclass
class _Array:
    """An array; a later instruction usually sets its content."""

    content: NDArray[np.float64] | None = None


_TYPES = {"f2", "f4", "f8", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))}
# The names of numpy's functions in numpy 1 and in numpy 2.
_RECONSTRUCT, _SCALAR, _FROM_BUFFER = (
    {f"numpy.core.{name}", f"numpy._core.{name}"}
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
)
# In protocols 0 to 2, Python 3 writes bytes as a call of _codecs.encode.
_NAMES = {"numpy.ndarray", "numpy.dtype", "_codecs.encode", *_RECONSTRUCT, *_SCALAR, *_FROM_BUFFER}

# The instructions that are allowed: first those that push their argument onto the stack.
_PUSH = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("STRING", "SHORT_BINSTRING", "BINSTRING"),  # strings of Python 2, which are bytes
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLE_SIZES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_OTHERS = {
    *("PROTO", "FRAME", "STOP", "MARK", "TUPLE", "LIST", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "MEMOIZE"),
    *("PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"),
}
_NAMES_ALLOWED = _PUSH | _OTHERS | _CONSTANTS.keys() | _TUPLE_SIZES.keys()
_ALLOWED = {op.code: op for op in pickletools.opcodes if op.name in _NAMES_ALLOWED}
# A string of Python 2 in protocol 0: quoted, with escapes.
_LITERAL = re.compile(rb"""(['"])((?:[^\\]|\\(?:[\\'"nrt]|x[0-9a-f]{2}))*)\1\n""", re.DOTALL)


def _instructions(content: bytes) -> Iterator[tuple[str, Any]]:
    """Yield name and argument of every instruction of a pickle, which must end with the file."""
    stream = io.BytesIO(content)
    name = ""
    while name != "STOP":
        place = stream.tell()
        code = stream.read(1)
        if not code:
            _refuse(f"it is cut off or damaged: it has no end after {place} bytes")
        if (opcode := _ALLOWED.get(code.decode("latin-1"))) is None:
            _refuse(f"it contains other objects than arrays (instruction {code!r} at byte {place})")
        name = opcode.name
        argument: Any = None
        try:
            if name in _READERS:
                argument = _READERS[name](stream)
            elif opcode.arg is not None:
                argument = opcode.arg.reader(stream)
        except ValueError as error:
            _refuse(f"it is cut off or damaged at byte {place}: {str(error)[:100]}")
        if name == "FRAME" and argument > len(content) - stream.tell():
            _refuse(f"it is cut off or damaged at byte {place}: a frame has {argument} bytes")
        yield name, argument
    if stream.tell() != len(content):
        _refuse(f"it ends after {stream.tell()} bytes, the file has {len(content)}")


def _read_string(stream: io.BytesIO) -> str:
    if (match := _LITERAL.fullmatch(stream.readline())) is None:
        raise ValueError("a string without end or with unknown escapes")
    return match[2].decode("unicode-escape")


def _read_global(stream: io.BytesIO) -> tuple[str, str]:
    module, name = stream.readline(), stream.readline()
    if not name.endswith(b"\n"):
        raise ValueError("a name without end")
    return module[:-1].decode("ascii"), name[:-1].decode("ascii")


# These readers of `pickletools` do not fit: in Python 3.11 they accept only ASCII, and they warn of
# unknown escapes instead of raising an error.
_READERS = {"STRING": _read_string, "GLOBAL": _read_global}


class _Machine:
    """Run a pickle. The documentation of the instructions is that of `pickletools`."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, object] = {}

    def run(self, content: bytes) -> object:
        """Run all instructions of a pickle, and return the object that is left on the stack."""
        for name, argument in _instructions(content):
            self._step(name, argument)
        result = self._pop()
        if self._stack:
            _refuse("it contains more than one object")
        return result

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case _ if name in _PUSH:
                stack.append(bytes(argument) if isinstance(argument, bytearray) else argument)
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case _ if name in _TUPLE_SIZES:
                items = [self._pop() for _ in range(_TUPLE_SIZES[name])]
                stack.append(tuple(items[::-1]))
            case "PROTO":
                if argument > 5:
                    _refuse(f"its protocol is {argument}, expected 0 to 5")
            case "MARK":
                stack.append(_Mark())
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "LIST":
                stack.append(self._pop_to_mark())
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                item = self._pop()
                self._top_list().append(item)
            case "APPENDS":
                items = self._pop_to_mark()
                self._top_list().extend(items)
            case "GLOBAL":
                stack.append(_global(*argument))
            case "STACK_GLOBAL":
                attribute, module = self._pop(), self._pop()
                stack.append(_global(module, attribute))
            case "REDUCE":
                arguments, function = self._pop(), self._pop()
                stack.append(_result_of(function, arguments))
            case "BUILD":
                state = self._pop()
                _set_state(self._top(), state)
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._top()
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._top()
            case "GET" | "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    _refuse("it is damaged: it refers to an object that it does not contain")
                stack.append(self._memo[argument])

    def _top(self) -> Any:
        if not self._stack or isinstance(self._stack[-1], _Mark):
            _refuse("it is damaged: an instruction has nothing to work on")
        return self._stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while self._stack:
            if isinstance(item := self._stack.pop(), _Mark):
                return items[::-1]
            items.append(item)
        _refuse("it is damaged: a tuple or list has no beginning")

    def _top_list(self) -> list[Any]:
        if not isinstance(found := self._top(), list):
            _refuse("it appends to something that is not a list")
        return found


def _global(module: object, name: object) -> _Global:
    """Return the name of a function or class, if arrays need it."""
    full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""
    if full not in _NAMES:
        _refuse(f"it names {ascii(full)[:100]}; only numpy arrays are read")
    return _Global(full)


def _result_of(function: object, arguments: object) -> object:
    """Return what numpy's function would return, without calling it."""
    match function, arguments:
        case _Global("numpy.dtype"), (str(code), _, _) if code in _TYPES:
            return _Type(code)
        case _Global("numpy.dtype"), (code, *_):
            shown = ascii(code)[:20] if isinstance(code, str) else _kind_of(code)
            _refuse(f"it has arrays of the type {shown}, not of floats or integers")
        case _Global("_codecs.encode"), (str(text), _):
            return _as_bytes(text)
        case _Global(name), (_Global("numpy.ndarray"), _, _) if name in _RECONSTRUCT:
            return _Array()
        case _Global(name), (kind, data) if name in _SCALAR:
            return _Array(_array(data, kind, (), "C"))
        case _Global(name), (data, kind, shape, order) if name in _FROM_BUFFER:
            return _Array(_array(data, kind, shape, order))
    _refuse("it creates an object in another way than numpy does")


def _set_state(value: object, state: object) -> None:
    """Set the byte order of a type or the content of an array, from the state that numpy wrote."""
    match value, state:
        case _Type(order=""), (3, "<" | ">" | "|" as order, None, None, None, -1, -1, 0):
            value.order = order
        case _Array(content=None), (1, shape, kind, False | True | 0 | 1 as fortran, data):
            value.content = _array(data, kind, shape, "F" if fortran else "C")
        case _:
            _refuse("it has an array that is not as numpy writes it")


def _array(data: object, kind: object, shape: object, order: object) -> NDArray[np.float64]:
    """Build a float64 array from its bytes, type, shape and order."""
    content = _as_bytes(data) if isinstance(data, str) else data
    if not isinstance(content, bytes) or not isinstance(kind, _Type) or order not in ("C", "F"):
        _refuse("it has an array that is not as numpy writes it")
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        _refuse("it has an array without a shape")
    # Numbers of one byte have no byte order, which numpy writes as "|".
    dtype = np.dtype(f"{kind.order.replace('|', '') or '='}{kind.code}")
    if len(shape) > 2 or math.prod(shape) * dtype.itemsize != len(content):
        _refuse(f"it has an array of shape {str(shape)[:50]} in {len(content)} bytes")
    values = np.frombuffer(content, dtype).reshape(shape, order="F" if order == "F" else "C")
    with np.errstate(invalid="ignore"):  # NaN is refused later
        return values.astype(np.float64)


def _as_bytes(text: str) -> bytes:
    """Return bytes that were written as a text of one character a byte."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        _refuse("it has an array that is not as numpy writes it")


def _values(found: object, axes: int = 2) -> NDArray[np.float64]:
    """Return an array, a number, or nested lists of them, as an array of at most `axes` axes."""
    if isinstance(found, _Array) and found.content is not None and found.content.ndim <= axes:
        return found.content
    if isinstance(found, int | float) and not isinstance(found, bool):
        try:
            return np.asarray(float(found))
        except OverflowError:
            _refuse("it has a number that is too large")
    if not isinstance(found, tuple | list) or not found or axes == 0:
        _refuse(f"it has {_kind_of(found)} in place of numbers")
    # A pickle can refer to the same long list many times, with two bytes each.
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
    """Describe an object without its content, which can be long or contain itself."""
    if isinstance(found, tuple | list):
        return f"a {type(found).__name__} of {len(found)}"
    kinds = {_Array: "an array", _Type: "a type of numbers", _Global: "a name"}
    return kinds.get(type(found), f"a value of type {type(found).__name__}")
