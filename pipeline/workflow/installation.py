"""Whether the packages that jobs import are those of the checkout whose Snakefile runs."""

from __future__ import annotations

from pathlib import Path

from geo.errors import InputError

# Resolved once: where this module was imported from.
SOURCE = Path(__file__).resolve().parents[2]


def check_installation(checkout: str | Path) -> None:
    """Check that the packages are imported from a checkout, as an editable install makes them.

    A plain `pip install .` copies them: after an edit or a pull, the rules of the checkout would
    call the stages of the copy.

    Raises
    ------
    InputError
        If they are imported from elsewhere.
    """
    if Path(checkout).resolve() != SOURCE:
        raise InputError(
            f"Parcelwise is installed from {SOURCE}, and this workflow is that of {checkout}. From "
            "there, run `python -m pip install --editable .`."
        )
