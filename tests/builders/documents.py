"""The examples in README and docs, and a folder in which they run on a tiny scene."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from tests.builders.paths import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(set(DOCS.rglob("*.md")) - set((DOCS / "vendor").iterdir()))]
# The settings of the demo, for a scene that is simulated and trained on in seconds.
TINY = {
    "size_m: 5120": "size_m: 1280",
    "acquisitions: 24": "acquisitions: 8",
    "parcels: 1000": "parcels: 60",
    "min_parcels: 20": "min_parcels: 5",
    "epochs: 60": "epochs: 2",
    "pixels: 32": "pixels: 8",
    "by: stratified": "by: stratified\n  folds: 2",
}


def blocks(path, *languages):
    """Return the fenced blocks of a page in some languages: (language, text), in order."""
    found = re.findall(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", path.read_text(), re.M | re.S)
    return [(language, dedent(text)) for _, language, text in found if language in languages]


def replaced(text, changes):
    """Replace parts of a text, all of which must be there."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def as_script(path, changes):
    """Return the commands and the Python of a page as one script, with other numbers."""
    parts = []
    for number, (language, text) in enumerate(blocks(path, "sh", "python")):
        end = f"END_OF_BLOCK_{number}"
        parts.append(text if language == "sh" else f"python - <<'{end}'\n{text}{end}\n")
    return "set -euo pipefail\n" + replaced("".join(parts), changes)


def small_checkout(folder):
    """Write what the commands of a fresh clone need: settings, Makefile and environment."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    demo = folder / "configs" / "demo.yaml"
    demo.write_text(replaced(demo.read_text(), TINY))
    environment = folder / ".venv" / "bin"
    environment.mkdir(parents=True)
    (environment / "activate").write_text(f"export PATH='{Path(sys.executable).parent}':$PATH\n")
    (folder / ".venv" / "ready").touch()
    return folder


def bash(script, folder):
    """Run a script in a folder; return what it prints."""
    # As a user's shell, without the variables of pytest's processes.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "OMP_"))}
    result = subprocess.run(
        ["bash"], input=script, capture_output=True, text=True, cwd=folder, env=environment
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    return result.stdout
