"""Check that a NetCDF file contains all that it shows: its format, HDF5, can name other files."""

from __future__ import annotations

from pathlib import Path

from geo.errors import InputError

MOST_GROUPS = 10_000


def check_self_contained(path: Path) -> None:
    """Check that no link and no array of an HDF5 file leads to another file.

    The HDF5 library would open it, wherever it is: external links, values in raw files, virtual
    datasets. Only the structure is read.

    Raises
    ------
    InputError
        If there is such a link or array, or a group that contains itself: the NetCDF library ends
        the process at it.
    OSError, RuntimeError, LookupError, ValueError
        If the file is damaged.
    """
    import h5py  # only NetCDF needs it

    if not h5py.is_hdf5(path):  # NetCDF 3, which names no file
        return
    with h5py.File(path, "r", locking="best-effort") as file:
        waiting = [("", file, frozenset[int]())]
        n_groups = 0
        while waiting:
            place, group, above = waiting.pop()
            n_groups += 1
            within = above | {h5py.h5o.get_info(group.id).addr}
            if len(within) == len(above) or n_groups > MOST_GROUPS:
                problem = (
                    f"the group {place} contains itself"
                    if len(within) == len(above)
                    else f"it has more than {MOST_GROUPS:,} groups"
                )
                raise InputError(f"{path}: {problem}. Write its arrays to another file.")
            for name in group:
                where = f"{place}/{name}"
                link = group.get(name, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    raise _reaches(path, where, link.filename)
                item = group.get(name)  # None: a soft link to nothing
                if isinstance(item, h5py.Group):
                    waiting.append((where, item, within))
                elif isinstance(item, h5py.Dataset):
                    named = [source for source, *_ in item.external or ()]
                    if item.is_virtual:
                        named += [source.file_name for source in item.virtual_sources()]
                    for source in named:
                        if source != ".":  # the file itself
                            raise _reaches(path, where, source)


def _reaches(path: Path, where: str, named: str) -> InputError:
    return InputError(
        f"{path}: {where} is stored in another file, {named}, and no file that a file names is "
        "opened. Write the values into one file, for example with nccopy."
    )
