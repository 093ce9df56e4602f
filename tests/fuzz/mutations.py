"""Mutations of the files below a folder, each drawn from a random generator."""

import json
import os
import re
import shutil

ODD_NUMBERS = [
    *("0", "-1", "1", "2", "65535", "65536", "-9999", "4294967296", "1e308", "-1e-300", "1e999"),
    *("NaN", "inf", "0.1", "9" * 40, "", "1,5", "0x10", "2018-02-30", "9999-12-31"),
]
ODD_TEXTS = [
    "",
    " ",
    "\x00",
    "é" * 300,
    "../../x",
    "/etc/passwd",
    "{x}",
    "'\";$(x)",
    "\u202ex",
    "x\n",
]
ODD_VALUES = [
    *(
        None,
        True,
        -1,
        0,
        1e308,
        float("nan"),
        10**30,
        "",
        "x" * 5000,
        "../x",
        "http://127.0.0.1:9/",
    ),
    *([], {}, [[]], [None], {"": {}}, [1, 2, 3], "9999-12-31T23:59:59Z", "2018-02-30", "file:///x"),
]
INTEGERS = [b"\x00", b"\xff", b"\x7f", b"\x80", b"\x01"]
TEXT_ENDINGS = (".xml", ".json", ".geojson", ".csv", ".yaml", ".gml", ".safe", ".prj", ".zattrs")
TEXT_NAMES = (".zattrs", ".zarray", ".zgroup", ".zmetadata")


def mutate(folder, rng):
    """Change one file below a folder, or its place in the folder; return what was done, as text."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        return "nothing, as there are no files"
    # Small files first: they are the ones that are parsed.
    small = [path for path in files if path.stat().st_size < 20_000] or files
    path = pick(rng, small if rng.random() < 0.6 else files)
    kinds = [_bytes, _bytes, _tree]
    if path.suffix.lower() in TEXT_ENDINGS or path.name in TEXT_NAMES:
        kinds = [_text, _text, _text, _bytes, _tree]
        if _is_json(path):
            kinds += [_json] * 4
    name = path.relative_to(folder).as_posix()
    return f"{name}: {pick(rng, kinds)(path, rng)}"


def pick(rng, items):
    return items[int(rng.integers(len(items)))]


def _bytes(path, rng):
    content = bytearray(path.read_bytes())
    kind = pick(
        rng, ["flip", "flip", "random", "zero", "cut", "insert", "delete", "integer", "swap"]
    )
    size = len(content)
    if not size:
        return "nothing, as it is empty"
    # Half of the places are in the first kilobyte: headers are there.
    at = int(rng.integers(min(size, 1000) if rng.random() < 0.5 else size))
    length = int(rng.integers(1, 65))
    if kind == "flip":
        for place in rng.integers(0, size, int(rng.integers(1, 9))):
            content[place] ^= 1 << int(rng.integers(8))
    elif kind == "random":
        content[at : at + length] = rng.bytes(len(content[at : at + length]))
    elif kind == "zero":
        length = int(rng.integers(1, size + 1))
        content[at : at + length] = bytes(len(content[at : at + length]))
    elif kind == "cut":
        del content[at:]
    elif kind == "insert":
        content[at:at] = rng.bytes(length)
    elif kind == "delete":
        del content[at : at + length]
    elif kind == "integer":
        width = pick(rng, [1, 2, 4, 8])
        at -= at % width
        content[at : at + width] = pick(rng, INTEGERS) * len(content[at : at + width])
    else:
        content = content[at:] + content[:at]
    path.write_bytes(content)
    return f"{kind} at {at}"


def _text(path, rng):
    text = path.read_text("utf-8", errors="replace")
    kind = pick(
        rng, ["number", "number", "word", "drop line", "double line", "drop mark", "insert"]
    )
    if kind == "number" and (found := list(re.finditer(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", text))):
        match, new = pick(rng, found), pick(rng, ODD_NUMBERS)
        text = text[: match.start()] + new + text[match.end() :]
        kind = f"number {match[0]} became {new}"
    elif kind == "word" and (found := list(re.finditer(r"[A-Za-z_]{2,}", text))):
        match, new = pick(rng, found), pick(rng, ODD_TEXTS)
        text = text[: match.start()] + new + text[match.end() :]
        kind = f"word {match[0]} became {new[:20]!r}"
    elif kind in ("drop line", "double line"):
        lines = (
            text.splitlines(keepends=True) if text.count("\n") > 2 else re.split(r"(?<=>)", text)
        )
        at = int(rng.integers(len(lines)))
        lines[at : at + 1] = [lines[at]] * (2 if kind == "double line" else 0)
        text = "".join(lines)
        kind = f"{kind} {at}"
    elif kind == "drop mark" and (found := list(re.finditer(r"[<>{}\[\]\",:;/=]", text))):
        at = pick(rng, found).start()
        text = text[:at] + text[at + 1 :]
        kind = f"{kind} at {at}"
    else:
        at, new = (
            int(rng.integers(len(text) + 1)),
            pick(rng, [*ODD_TEXTS, "[" * 5000, "<a>" * 5000]),
        )
        text = text[:at] + new + text[at:]
        kind = f"{new[:20]!r} inserted at {at}"
    path.write_text(text, "utf-8", errors="replace")
    return kind


def _is_json(path):
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def _json(path, rng):
    values = json.loads(path.read_bytes())
    nodes = [(values, key) for key in _keys(values)]
    for above, key in nodes:  # grows while it is walked
        nodes += ((above[key], inner) for inner in _keys(above[key]))
        if len(nodes) > 5000:
            break
    if not nodes:
        return "nothing, as it has no values"
    above, key = pick(rng, nodes)
    if rng.random() < 0.2:
        del above[key]
        done = f"{key!r} removed"
    else:
        above[key] = pick(rng, ODD_VALUES)
        done = f"{key!r} became {str(above[key])[:30]!r}"
    path.write_text(json.dumps(values))
    return done


def _keys(value):
    return (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )


def _tree(path, rng):
    kind = pick(
        rng, ["remove", "empty", "folder", "link to nothing", "link to itself", "pipe", "twice"]
    )
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "twice":
        shutil.copy(path, path.with_name(f"copy_{path.name}"))
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind.startswith("link"):
            path.symlink_to(path.name if kind == "link to itself" else "nowhere")
    return kind
