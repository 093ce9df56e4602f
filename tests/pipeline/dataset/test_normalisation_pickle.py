"""The pickle of normalisation values: every real form is read, and everything else is refused."""

import json
import os
import pickle
import pickletools
import random
import re
import struct
import subprocess
import sys

import numpy as np
import pytest

from geo.errors import InputError
from pipeline.dataset.normalisation_pickle import read_normalisation, write_normalisation
from pipeline.stages.ingest import ingest
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import NORMALISATIONS, RunPaths
from tests.builders.paths import PARITY, ROOT
from tests.builders.pixel_sets import BANDS, make

MEANS = np.array([[1000.25, 1138.5, 7.0], [2000.0, 255.0, 0.125]])
STDS = MEANS / 4

# Written by Python 2.7 with numpy 1.16, 3.6 with 1.13 and 3.8 with 1.22: (MEANS in Fortran order,
# STDS) in several protocols, and (np.float32(1000.25), 250.0).
WRITTEN = {
    "Python 2, protocol 0": (
        b"(cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\ntp4"
        b"\nRp5\n(I1\n(I2\nI3\ntp6\ncnumpy\ndtype\np7\n(S'f8'\np8\nI0\nI1\ntp9\nRp10\n(I3\nS'<'\np1"
        b"1\nNNNI-1\nI-1\nI0\ntp12\nbI01\nS'\\x00\\x00\\x00\\x00\\x00B\\x8f@\\x00\\x00\\x00\\x00\\x"
        b"00@\\x9f@\\x00\\x00\\x00\\x00\\x00\\xca\\x91@\\x00\\x00\\x00\\x00\\x00\\xe0o@\\x00\\x00\\"
        b"x00\\x00\\x00\\x00\\x1c@\\x00\\x00\\x00\\x00\\x00\\x00\\xc0?'\np13\ntp14\nbg0\n(g1\n(I0\n"
        b"tp15\ng3\ntp16\nRp17\n(I1\n(I2\nI3\ntp18\ng10\nI00\nS'\\x00\\x00\\x00\\x00\\x00Bo@\\x00\\"
        b"x00\\x00\\x00\\x00\\xcaq@\\x00\\x00\\x00\\x00\\x00\\x00\\xfc?\\x00\\x00\\x00\\x00\\x00@"
        b"\\x7f@\\x00\\x00\\x00\\x00\\x00\\xe0O@\\x00\\x00\\x00\\x00\\x00\\x00\\xa0?'\np19\ntp20\nb"
        b"tp21\n."
    ),
    "Python 2, protocol 2": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02U"
        b"\x01bq\x03\x87q\x04Rq\x05(K\x01K\x02K\x03\x86q\x06cnumpy\ndtype\nq\x07U\x02f8q\x08K\x00K"
        b"\x01\x87q\tRq\n(K\x03U\x01<q\x0bNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0cb\x88U0"
        b"\x00\x00\x00\x00\x00B\x8f@\x00\x00\x00\x00\x00@\x9f@\x00\x00\x00\x00\x00\xca\x91@\x00\x00"
        b"\x00\x00\x00\xe0o@\x00\x00\x00\x00\x00\x00\x1c@\x00\x00\x00\x00\x00\x00\xc0?q\rtq\x0ebh"
        b"\x00h\x01K\x00\x85q\x0fh\x03\x87q\x10Rq\x11(K\x01K\x02K\x03\x86q\x12h\n\x89U0\x00\x00\x00"
        b"\x00\x00Bo@\x00\x00\x00\x00\x00\xcaq@\x00\x00\x00\x00\x00\x00\xfc?\x00\x00\x00\x00\x00@"
        b"\x7f@\x00\x00\x00\x00\x00\xe0O@\x00\x00\x00\x00\x00\x00\xa0?q\x13tq\x14b\x86q\x15."
    ),
    "Python 3, protocol 2": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02c_"
        b"codecs\nencode\nq\x03X\x01\x00\x00\x00bq\x04X\x06\x00\x00\x00latin1q\x05\x86q\x06Rq\x07"
        b"\x87q\x08Rq\t(K\x01K\x02K\x03\x86q\ncnumpy\ndtype\nq\x0bX\x02\x00\x00\x00f8q\x0cK\x00K"
        b"\x01\x87q\rRq\x0e(K\x03X\x01\x00\x00\x00<q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
        b"q\x10b\x88h\x03X6\x00\x00\x00\x00\x00\x00\x00\x00B\xc2\x8f@\x00\x00\x00\x00\x00@\xc2\x9f@"
        b"\x00\x00\x00\x00\x00\xc3\x8a\xc2\x91@\x00\x00\x00\x00\x00\xc3\xa0o@\x00\x00\x00\x00\x00"
        b"\x00\x1c@\x00\x00\x00\x00\x00\x00\xc3\x80?q\x11h\x05\x86q\x12Rq\x13tq\x14bh\x00h\x01K\x00"
        b"\x85q\x15h\x07\x87q\x16Rq\x17(K\x01K\x02K\x03\x86q\x18h\x0e\x89h\x03X4\x00\x00\x00\x00"
        b"\x00\x00\x00\x00Bo@\x00\x00\x00\x00\x00\xc3\x8aq@\x00\x00\x00\x00\x00\x00\xc3\xbc?\x00"
        b"\x00\x00\x00\x00@\x7f@\x00\x00\x00\x00\x00\xc3\xa0O@\x00\x00\x00\x00\x00\x00\xc2\xa0?q"
        b"\x19h\x05\x86q\x1aRq\x1btq\x1cb\x86q\x1d."
    ),
    "Python 3, protocol 5": (
        b"\x80\x05\x95\xf4\x00\x00\x00\x00\x00\x00\x00\x8c\x12numpy.core.numeric\x94\x8c\x0b_frombu"
        b"ffer\x94\x93\x94(\x960\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00B\x8f@\x00\x00\x00"
        b"\x00\x00@\x9f@\x00\x00\x00\x00\x00\xca\x91@\x00\x00\x00\x00\x00\xe0o@\x00\x00\x00\x00\x00"
        b"\x00\x1c@\x00\x00\x00\x00\x00\x00\xc0?\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c"
        b"\x02f8\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01<\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK"
        b"\x00t\x94bK\x02K\x03\x86\x94\x8c\x01F\x94t\x94R\x94h\x02(\x960\x00\x00\x00\x00\x00\x00"
        b"\x00\x00\x00\x00\x00\x00Bo@\x00\x00\x00\x00\x00\xcaq@\x00\x00\x00\x00\x00\x00\xfc?\x00"
        b"\x00\x00\x00\x00@\x7f@\x00\x00\x00\x00\x00\xe0O@\x00\x00\x00\x00\x00\x00\xa0?\x94h\tK\x02"
        b"K\x03\x86\x94\x8c\x01C\x94t\x94R\x94\x86\x94."
    ),
    "Python 2, scalars": (
        b"(cnumpy.core.multiarray\nscalar\np0\n(cnumpy\ndtype\np1\n(S'f4'\np2\nI0\nI1\ntp3\nRp4\n(I3"
        b"\nS'<'\np5\nNNNI-1\nI-1\nI0\ntp6\nbS'\\x00\\x10zD'\np7\ntp8\nRp9\nF250.0\ntp10\n."
    ),
    "Python 3, scalars": (
        b"\x80\x05\x95p\x00\x00\x00\x00\x00\x00\x00\x8c\x15numpy.core.multiarray\x94\x8c\x06scalar"
        b"\x94\x93\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02f4\x94\x89\x88\x87\x94R\x94"
        b"(K\x03\x8c\x01<\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94bC\x04\x00\x10zD\x94"
        b"\x86\x94R\x94G@o@\x00\x00\x00\x00\x00\x86\x94."
    ),
}


@pytest.mark.parametrize("writer", WRITTEN)
def test_pickles_of_older_versions_are_read(tmp_path, writer):
    path = tmp_path / "n.pkl"
    path.write_bytes(WRITTEN[writer])
    expected = (1000.25, 250.0) if "scalars" in writer else (MEANS, STDS)
    for found, value in zip(read_normalisation(path), expected, strict=True):
        assert found.dtype == np.float64
        assert found.shape == np.shape(value)
        assert np.array_equal(found, value)


def typed(kind):
    return MEANS.astype(kind), np.ceil(STDS).astype(kind)


FORMS = {
    **{kind: typed(kind) for kind in ("f8", ">f8", "f4", ">f4", "f2", "i2", ">i4", "i8", "u2")},
    **{kind: (np.ones(3, kind), np.full(3, 9, kind)) for kind in ("i1", "u1", ">u8")},
    "Fortran order": (np.asfortranarray(MEANS), np.asfortranarray(STDS)),
    "transposed": (np.ascontiguousarray(MEANS.T).T, STDS),
    "every second": (np.repeat(MEANS, 2, 1)[:, ::2], STDS),
    "channels": (MEANS[0], STDS[0]),
    "no axes": (np.array(1000.25), np.array(3.5)),
    "scalars": (np.float64(1000.25), np.float32(3.5)),
    "Python's numbers": (1000.25, 3),
    "large integers": (2**40, 2**33),
    "lists": (MEANS.tolist(), STDS.tolist()),
    "a list of both": [MEANS, STDS],
    "tuples of scalars": (tuple(MEANS[0]), tuple(STDS[0])),
    "lists of rows": (list(MEANS), list(STDS)),
    "one object twice": (MEANS, MEANS),
    "no deviation": (MEANS[0], np.array([1.0, 0.0, 3.0])),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_in_every_protocol(tmp_path, form, protocol):
    path = tmp_path / "n.pkl"
    path.write_bytes(pickle.dumps(FORMS[form], protocol))
    for found, value in zip(read_normalisation(path), FORMS[form], strict=True):
        assert found.shape == np.shape(value)
        assert np.array_equal(found, np.asarray(value, np.float64))


@pytest.mark.parametrize("shape", [(), (3,), (5, 3)])
def test_written_values_are_read_back(tmp_path, shape):
    generator = np.random.default_rng(0)
    written = generator.random(shape), generator.random(shape)
    write_normalisation(tmp_path / "n.pkl", *map(np.asarray, written))
    for a, b in zip(read_normalisation(tmp_path / "n.pkl"), written, strict=True):
        assert a.shape == shape
        assert np.array_equal(a, b)


@pytest.mark.skipif(not PARITY.is_dir(), reason=f"{PARITY} is not there")
@pytest.mark.parametrize(
    ("name", "shape"), [("S2-2017-T31TFM-meanstd", (24, 10)), ("meanstd_channelwise", (10,))]
)
def test_the_pickles_of_the_reference_are_read(name, shape):
    path = PARITY / "pixelset_small" / f"{name}.pkl"
    expected = pickle.loads(path.read_bytes())  # noqa: S301 - the format's
    for found, value in zip(read_normalisation(path), expected, strict=True):
        assert found.shape == shape
        assert np.array_equal(found, value)


# Run in a separate process, because an unsafe reader could crash it or use all memory.
READ = """
import json, resource, sys, time, tracemalloc, warnings
from pathlib import Path
import numpy as np
from geo.errors import InputError
from pipeline.dataset.normalisation_pickle import read_normalisation
from tests.builders.paths import ROOT

warnings.simplefilter("error")
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
tracemalloc.start()
for path in map(Path, sys.stdin.read().split("\\0")):
    start, message = time.perf_counter(), None
    try:
        means, stds = read_normalisation(path)
        assert means.shape == stds.shape and np.isfinite([means, stds]).all()
    except InputError as error:
        message = str(error)
    seconds = time.perf_counter() - start
    print(json.dumps([path.name, message, seconds, tracemalloc.get_traced_memory()[1] / 1e6]))
"""


def read_apart(paths):
    """Read files in another process: {name: message of the refusal}, the most seconds and MB."""
    result = subprocess.run(
        [sys.executable, "-c", READ],
        input="\0".join(map(str, paths)), capture_output=True, text=True, cwd=ROOT, timeout=300,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, (result.returncode, result.stdout[-300:], result.stderr[-900:])
    names, messages, seconds, memory = zip(
        *map(json.loads, result.stdout.splitlines()), strict=True
    )
    return dict(zip(names, messages, strict=True)), max(seconds), max(memory)


def text(value):
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def name(module, value):
    return text(module) + text(value) + pickle.STACK_GLOBAL


def kind(code="f8", state=(3, "<", None, None, None, -1, -1, 0)):
    """Call numpy.dtype(code, False, True), and set the state."""
    return (
        name("numpy", "dtype") + text(code) + pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3
        + pickle.REDUCE + plain(state) + pickle.BUILD
    )  # fmt: skip


def plain(value):
    """Pickle a plain value without frame and end."""
    return pickle.dumps(value, 2)[2:-1]


def from_buffer(data=b"\1" * 16, code="f8", shape=(2,), order="C", core="_core", **state):
    """Write an array as numpy 2 does in protocol 5."""
    content = pickle.BINBYTES8 + struct.pack("<Q", len(data)) + data
    return (
        name(f"numpy.{core}.numeric", "_frombuffer") + pickle.MARK + content + kind(code, **state)
        + plain(shape) + plain(order) + pickle.TUPLE + pickle.REDUCE
    )  # fmt: skip


def reconstructed(state, cls=("numpy", "ndarray")):
    """Write an array by _reconstruct, and set the state."""
    return (
        name("numpy._core.multiarray", "_reconstruct") + name(*cls) + plain((0,))
        + pickle.SHORT_BINBYTES + b"\1b" + pickle.TUPLE3 + pickle.REDUCE + state + pickle.BUILD
    )  # fmt: skip


def state_of(shape=(2,), data=b"\1" * 16, code="f8", version=1, fortran=False):
    content = pickle.SHORT_BINBYTES + bytes([len(data)]) + data
    return (
        pickle.MARK + plain(version) + plain(shape) + kind(code) + plain(fortran) + content
        + pickle.TUPLE
    )  # fmt: skip


def two(item):
    return pickle.PROTO + b"\4" + item + item + pickle.TUPLE2 + pickle.STOP


class Attack:
    def __reduce__(self):
        return eval, ("1",)


class Own:
    pass


def objects_of(pointers=b"\x41" * 16):
    return from_buffer(pointers, "O8", state=(3, "|", None, None, None, -1, -1, 0))


def listed(n, item):
    """A list with n references to the same object, two bytes each."""
    first = pickle.MARK + item + pickle.BINPUT + b"\1"
    return first + (pickle.BINGET + b"\1") * (n - 1) + pickle.LIST


def typed_as(code):
    """Call numpy.dtype."""
    return name("numpy", "dtype") + code + pickle.NONE * 2 + pickle.TUPLE3 + pickle.REDUCE


EMPTY = np.zeros(0)
HUGE = plain(2**20_000)
DEEP = pickle.EMPTY_TUPLE + pickle.TUPLE1 * 30_000
GOOD = pickle.dumps((MEANS, STDS), 4)
NAN = np.array([1.0, np.nan, 3.0])
HOSTILE = {
    "executes": (pickle.dumps((Attack(), 1)), r"'builtins\.eval'; only numpy arrays"),
    "executes in protocol 0": (pickle.dumps((Attack(), 1), 0), r"'__builtin__\.eval'; only numpy"),
    "pointers": (two(objects_of()), "type 'O8'"),
    "pointers by _reconstruct": (two(reconstructed(state_of(code="O8"))), "type 'O8'"),
    "flags of objects": (
        two(from_buffer(state=(3, "<", None, None, None, -1, -1, 63))),
        "not as numpy writes it",
    ),
    "flags of objects, one byte": (
        two(from_buffer(code="V8", state=(3, "|", None, None, None, 8, 1, 63))),
        "type 'V8'",
    ),
    "size of a type": (
        two(from_buffer(state=(3, "<", None, None, None, 1 << 40, 8, 0))),
        "not as numpy writes it",
    ),
    "fields of a type": (
        two(from_buffer(state=(3, "<", None, ("a",), {"a": 1}, -1, -1, 0))),
        "other objects than arrays",
    ),
    "type of types": (two(from_buffer(state=(3, "<", ("f8", 3), None, None, -1, -1, 0))), "as num"),
    "type twice": (two(kind() + plain((3, ">", None, None, None, -1, -1, 0)) + b"b"), "as numpy"),
    "text": (pickle.dumps((np.array(["a"]), np.array(["b"]))), "type 'U1'"),
    "complex": (pickle.dumps((MEANS + 1j, STDS)), "type 'c16'"),
    "truth": (pickle.dumps((MEANS > 0, STDS > 0)), "type 'b1'"),
    "dates": (pickle.dumps((np.array(["2018-01-01"], "M8[D]"), 1)), "type 'M8'"),
    "objects": (pickle.dumps((np.array([1, None]), 1)), "type 'O8'"),
    "a record": (pickle.dumps((np.zeros(2, "f8,f8"), 1)), "type 'V16'"),
    "another class": (
        two(reconstructed(state_of(), ("numpy", "matrix"))),
        r"'numpy\.matrix'; only",
    ),
    "an own class": (pickle.dumps((Own(), 1)), r"Own'; only numpy arrays"),
    "an own class in protocol 0": (pickle.dumps((Own(), 1), 0), r"only numpy arrays"),
    "a named attribute": (
        two(name("numpy", "ndarray.__class__.__base__")),
        r"'numpy\.ndarray\.__class__\.__base__'; only",
    ),
    "type as array": (two(name("numpy", "ndarray")), "a name in place of numbers"),
    "two kinds of array": (two(kind()), "a type of numbers in place of numbers"),
    "no content": (two(reconstructed(state_of())[:-1]), "more than one object|in place of numbers"),
    "content twice": (two(reconstructed(state_of()) + state_of() + b"b"), "not as numpy writes it"),
    "content of a list": (two(pickle.EMPTY_LIST + state_of() + b"b"), "not as numpy writes it"),
    "call of a number": (two(plain(3) + pickle.EMPTY_TUPLE + b"R"), "another way than numpy"),
    "call of an array": (two(from_buffer() + pickle.EMPTY_TUPLE + b"R"), "another way than numpy"),
    "INST": (pickle.PROTO + b"\2((ios\nsystem\n.", r"instruction b'i'"),
    "OBJ": (pickle.PROTO + b"\2(" + name("numpy", "dtype") + b"o.", r"instruction b'o'"),
    "NEWOBJ": (two(name("numpy", "ndarray") + b")\x81"), r"instruction b'\\x81'"),
    "NEWOBJ_EX": (two(name("numpy", "ndarray") + b")}\x92"), r"instruction b'}'"),
    "EXT1": (b"\x82\1.", r"instruction b'\\x82'"),
    "EXT4": (b"\x84\1\0\0\0.", r"instruction b'\\x84'"),
    "PERSID": (b"P1\n.", "instruction b'P'"),
    "BINPERSID": (b"K\1Q.", "instruction b'Q'"),
    "buffer of another file": (b"\x80\5\x97.", r"instruction b'\\x97'"),
    "a dictionary": (pickle.dumps({"mean": MEANS, "std": STDS}), r"instruction b'}' at byte"),
    "one array": (pickle.dumps(MEANS), "it contains an array"),
    "three": (pickle.dumps((MEANS, STDS, STDS)), "a tuple of 3, expected two values"),
    "nothing": (b"", "cut off or damaged"),
    "only an end": (b".", "nothing to work on"),
    "text file": (b"means,stds\n1,2\n", "instruction b'm'"),
    "npy file": (b"\x93NUMPY\1\0", "nothing to work on"),
    "trailing bytes": (GOOD + b"\n", "ends after .* bytes, the file has"),
    "two pickles": (pickle.dumps(MEANS, 4) + pickle.dumps(STDS, 4), "ends after"),
    "two objects": (pickle.PROTO + b"\4K\1" + GOOD[11:], "more than one object"),
    "newer protocol": (b"\x80\x09" + GOOD[2:], "protocol is 9"),
    "NaN": (pickle.dumps((NAN, STDS[0])), "1 of 3 means are not finite"),
    "infinite": (pickle.dumps((MEANS, np.full_like(STDS, np.inf))), "6 of 6 stds are not finite"),
    "NaN as text": (b"(FNaN\nF1.0\nt.", "1 of 1 means are not finite"),
    "signalling NaN": (
        pickle.dumps((np.frombuffer(b"\1\0\xa0\x7f", "<f4"), np.ones(1, "f4"))),
        "1 of 1 means are not finite",
    ),
    "beyond float32": (pickle.dumps((1e300, 1.0)), "1 of 1 means are not finite"),
    "huge integer": (pickle.dumps((10**400, 1)), "too large"),
    "huge integer as text": (b"(L" + b"9" * 5000 + b"L\nI1\nt.", "cut off or damaged"),
    "negative deviation": (pickle.dumps((MEANS, -STDS)), "6 of 6 stds are negative"),
    "tiny deviation": (pickle.dumps((1.0, 1e-300)), "negative or smaller than"),
    "different shapes": (pickle.dumps((MEANS, STDS[0])), r"\(2, 3\) and \(3,\)"),
    "three axes": (pickle.dumps((MEANS[None], STDS[None])), r"of shape \(1, 2, 3\)"),
    "no values": (pickle.dumps((EMPTY, EMPTY)), r"\(0,\) and \(0,\)"),
    "empty lists": (pickle.dumps(([], [])), "a list of 0 in place of numbers"),
    "ragged lists": (pickle.dumps(([[1.0], [1.0, 2.0]], 1)), "different lengths"),
    "deep lists": (pickle.dumps(([[[1.0]]], 1)), "a list of 1 in place of numbers"),
    "negative shape": (two(from_buffer(shape=(-2,))), "without a shape"),
    "shape of other size": (two(from_buffer(shape=(3,))), r"shape \(3,\) in 16 bytes"),
    "shape of truth": (two(from_buffer(shape=(True, 2))), "without a shape"),
    "odd order": (two(from_buffer(order="K")), "not as numpy writes it"),
    "odd version": (two(reconstructed(state_of(version=2))), "not as numpy writes it"),
    "odd Fortran": (two(reconstructed(state_of(fortran=7))), "not as numpy writes it"),
    "overflowing shape": (two(from_buffer(shape=(1 << 62, 4))), r"in 16 bytes"),
    # Files that claim 40 GB, or would need them.
    "40 GB of bytes": (
        pickle.PROTO + b"\4" + pickle.BINBYTES8 + struct.pack("<Q", 40 << 30) + b"abc.",
        "42949672960 bytes",
    ),
    "40 GB of bytearray": (
        pickle.PROTO + b"\5" + pickle.BYTEARRAY8 + struct.pack("<Q", 40 << 30) + b"abc.",
        "42949672960 bytes",
    ),
    "2 to 63 bytes of text": (
        pickle.PROTO + b"\4" + pickle.BINUNICODE8 + b"\xff" * 8 + b"abc.",
        "cut off or damaged",
    ),
    "negative bytes": (b"T\xff\xff\xff\xffabc.", "cut off or damaged"),
    "frame of 40 GB": (
        pickle.PROTO + b"\4" + pickle.FRAME + struct.pack("<Q", 40 << 30) + GOOD[11:],
        "42949672960 bytes",
    ),
    "shape of 40 GB": (two(from_buffer(shape=(5 << 30,))), "in 16 bytes"),
    "memo of 40 GB": (b"K\1r\xff\xff\xff\xffK\1\x86.", None),
    "list of itself": (b"(]q\1h\1ah\1t.", "a list of 1 in place of numbers"),
    "doubled tuples": (
        b"K\1" + b"q\1h\1\x86" * 60 + b".",
        "a tuple of 2 in place of numbers",
    ),
    "long list many times": (
        two(listed(40_000, listed(40_000, plain(1.0)))),
        "more than 125,000 values",
    ),
    "large array many times": (
        two(listed(40_000, from_buffer(b"\1" * 400_000, shape=(50_000,)))),
        "more than 125,000 values",
    ),
    "deep tuples": (b"K\1" + b"\x85" * 30_000 + b"K\1\x86.", "a tuple of 1 in place of numbers"),
    "many marks": (b"(" * 30_000 + b".", "nothing to work on"),
    # Objects that cannot be written into a message: Python refuses to print the number, and
    # printing the tuple would exceed the stack.
    "a huge integer alone": (HUGE + b".", "a value of type int, expected two values"),
    "a huge shape": (two(from_buffer(shape=(2**20_000,))), "without a shape"),
    "a huge type": (two(typed_as(HUGE)), "type a value of type int"),
    "a deep type": (two(typed_as(DEEP)), "type a tuple of 1"),
    "a deep name": (two(DEEP + text("dtype") + pickle.STACK_GLOBAL), "only numpy arrays"),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    paths = {case: folder / f"{i}.pkl" for i, case in enumerate(HOSTILE)}
    for case, path in paths.items():
        path.write_bytes(HOSTILE[case][0])
    messages, slowest, memory = read_apart(paths.values())
    return {case: (path, messages[path.name]) for case, path in paths.items()}, slowest, memory


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_and_named(refusals, case):
    path, message = refusals[0][case]
    words = HOSTILE[case][1]
    if words is None:
        assert message is None
        return
    assert message is not None
    assert message.startswith(f"{path} cannot be used as normalisation values: ")
    assert "Write it again, or remove it" in message
    assert len(message) < len(str(path)) + 600
    assert re.search(words, message), message


def test_large_claims_cost_little_time_and_memory(refusals):
    _, slowest, memory = refusals
    assert slowest < 20
    assert memory < 300


def test_a_file_of_40_gb_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "n.pkl"
    path.write_bytes(GOOD)
    os.truncate(path, 40 << 30)  # sparse
    messages, seconds, memory = read_apart([path])
    assert "it has 42,949,672,960 bytes, expected at most 1,000,000" in messages[path.name]
    assert seconds < 1
    assert memory < 300


def mutated(content, draw, others):
    """Change bits or bytes of a pickle, cut it, or insert instructions, lengths, other pickles."""
    content = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        at = draw.randrange(len(content)) if content else 0
        match draw.randrange(7):
            case 0 if content:
                content[at] ^= 1 << draw.randrange(8)
            case 1 if content:
                content[at] = draw.randrange(256)
            case 2:
                del content[at:]
            case 3:
                content[at:at] = draw.choice(INSTRUCTIONS)
            case 4:
                content[at : at + 8] = draw.choice(LENGTHS)
            case 5:
                del content[at : at + draw.randrange(1, 20)]
            case _:
                other = draw.choice(others)
                start = draw.randrange(len(other))
                content[at:at] = other[start : start + draw.randrange(1, 60)]
    return bytes(content)


INSTRUCTIONS = [op.code.encode("latin-1") for op in pickletools.opcodes]
LENGTHS = [b"\xff" * 8, struct.pack("<Q", 40 << 30), b"\xff\xff\xff\x7f", b"\0" * 8]


@pytest.mark.slow
def test_damaged_pickles_are_refused_or_contain_numbers(tmp_path):
    """Cut one pickle at every byte, and damage all at random; the other process checks them."""
    intact = [*WRITTEN.values(), GOOD]
    intact += [pickle.dumps(form, protocol) for form in FORMS.values() for protocol in (0, 2, 4, 5)]
    draw = random.Random(1)  # noqa: S311
    damaged = [GOOD[:n] for n in range(len(GOOD))]
    damaged += [mutated(draw.choice(intact), draw, intact) for _ in range(3000)]
    paths = [tmp_path / str(i) for i in range(len(damaged))]
    for path, content in zip(paths, damaged, strict=True):
        path.write_bytes(content)
    messages, slowest, memory = read_apart(paths)
    assert len(messages) == len(paths)
    assert all(messages[path.name] for path in paths[: len(GOOD)])
    assert sum(message is not None for message in messages.values()) > 2000
    assert slowest < 20
    assert memory < 300


UNSUITABLE = {
    "cut": (GOOD[:60], "cut off or damaged"),
    "NaN": (pickle.dumps((np.full(4, np.nan), np.ones(4))), "4 of 4 means are not finite"),
    "other channels": (
        pickle.dumps((MEANS[0], STDS[0])),
        r"shape \(3,\), but the dataset has 4 channels and 7 dates: .* \(4,\) or \(7, 4\)",
    ),
    "other dates": (
        pickle.dumps((np.ones((6, 4)), np.ones((6, 4)))),
        r"has values of shape \(6, 4\)",
    ),
    "dates alone": (pickle.dumps((np.ones(7), np.ones(7))), r"has values of shape \(7,\)"),
}


@pytest.mark.parametrize("weights", [None, "weights"])
@pytest.mark.parametrize("case", UNSUITABLE)
@pytest.mark.parametrize("file", NORMALISATIONS)
def test_ingest_refuses_a_bad_pickle_before_it_writes(tmp_path, file, case, weights):
    source, run = tmp_path / "existing", RunPaths(tmp_path / "run")
    make(source, n=12, pickled=False)
    content, words = UNSUITABLE[case]
    (source / file).write_bytes(content)
    dataset = {"path": source, "bands": BANDS, "classes": {"min_parcels": 3}}
    values = {"dataset": dataset, "split": {"folds": 2}, "predict": {"weights": weights}}
    with pytest.raises(InputError, match=words) as refusal:
        ingest([source], run.dataset.root, run.ledger, run.classes, view(load(values), "ingest"))
    assert str(source / file) in str(refusal.value)
    assert not run.root.exists()
