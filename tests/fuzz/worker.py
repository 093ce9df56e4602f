"""A process that reads mutants: cases come as lines of JSON, results go back as lines of JSON."""

import contextlib
import io
import json
import logging
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
import zlib
from pathlib import Path

import numpy as np

from geo.errors import InputError
from models.errors import InputError as ModelInputError
from tests.fuzz.inputs import KINDS
from tests.fuzz.mutations import mutate

# Memory of the process above what the libraries need themselves.
MEMORY = 3 * 2**30


def main():
    """Read cases until the input ends."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    results = sys.stdout
    sys.stdout = sys.stderr
    with tempfile.TemporaryDirectory() as root:
        good = {}
        for line in sys.stdin:
            kind, seed, number = json.loads(line)
            results.write(json.dumps(run_case(Path(root), good, kind, seed, number)) + "\n")
            results.flush()


def run_case(root, good, kind, seed, number):
    """Mutate a copy of the good input of a kind, read it, and compare the readings."""
    write, read = KINDS[kind]
    source = root / kind
    if kind not in good:
        write(source)
        good[kind] = reading(read, source, root / "out")
    outcome, expected = good[kind]
    if outcome != "read":
        detail = f"the input is not read before it is damaged: {expected}"
        return {"done": "", "outcome": "crash", "detail": detail, "parts": [], "grown_mb": 0}
    # In the same place as the good input, as results contain paths.
    kept = root / "good"
    source.rename(kept)
    shutil.copytree(kept, source, symlinks=True)
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), number])
    done = mutate(source, rng)
    if rng.random() < 0.2:
        done += f"; {mutate(source, rng)}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome, detail = reading(read, source, root / "out")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    shutil.rmtree(source)
    kept.rename(source)
    parts = []
    if outcome == "read":
        parts = [part for part in detail if detail[part] != expected[part]]
        detail = ""
    return {"done": done, "outcome": outcome, "detail": detail, "parts": parts, "grown_mb": grown}


def reading(read, source, out):
    """Return ("read", parts), ("refused", message) or ("traceback", its text)."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return "read", read(source, out)
    except (InputError, ModelInputError, OSError) as error:  # what the command shows as a message
        message = str(error)
        return ("refused" if message else "traceback"), message or repr(error)
    except Exception:  # noqa: BLE001 (this is what is looked for)
        return "traceback", traceback.format_exc()


if __name__ == "__main__":
    main()
