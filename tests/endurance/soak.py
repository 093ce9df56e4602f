"""Add acquisitions one by one, then remove and replace some: each equals a run from nothing."""

import shutil
import sqlite3
import time
from contextlib import closing

import pandas as pd

from demo import simulate
from tests.endurance.small_run import RUN, SCENE, TARGETS, SmallRun, differences, open_files

# Between two runs of everything, that many runs add an acquisition to the dataset alone.
DATASETS_BETWEEN = 4


def soak(folder, increments=20, until=float("inf"), show=print, targets=TARGETS, changed=True):
    """Grow a run, and return what went wrong, one line each.

    Parameters
    ----------
    folder
        Gets the inputs, the run that grows, and runs from nothing to compare it with.
    increments
        Number of acquisitions that are added, one to a run.
    until
        Time of `time.monotonic` after which no more are added.
    show
        Called with every line of progress.
    targets
        What is asked for at last. Between two such runs, several ask for the dataset alone.
    changed
        Whether to remove and replace an acquisition, and to change the register, too.
    """
    raw, aside = folder / "raw", folder / "aside"
    aside.mkdir(parents=True)
    simulate(
        raw / "imagery", raw / "register.gpkg",
        **{**SCENE, "acquisitions": SCENE["acquisitions"] + increments},
    )  # fmt: skip
    products = sorted((raw / "imagery").glob("*.SAFE"))
    # Early, middle and late dates come in turns, as from several archives.
    order = [product for k in range(3) for product in products[k::3]]
    for product in order[SCENE["acquisitions"] :]:
        product.rename(aside / product.name)
    run, faults, rows = made(folder / "grown", raw, targets), [], []
    rows.append(_finished(run, "start", show))
    for number, product in enumerate(order[SCENE["acquisitions"] :], 1):
        if time.monotonic() > until:
            break
        (aside / product.name).rename(product)
        is_whole = number in (1, increments) or number % (DATASETS_BETWEEN + 1) == 0
        asked = targets if is_whole else ("dataset",)
        rows.append(_finished(run, f"{number} of {increments} added", show, asked))
    faults += _compared(run, folder, "all added", raw, show)
    faults += _grown(rows)

    changes = (
        ("one removed", lambda: order[1].rename(aside / order[1].name)),
        ("one replaced", lambda: _replace(order[0], order[2])),
        ("one row of the register changed", lambda: _change_row(raw / "register.gpkg")),
    )
    for words, change in changes if changed else ():
        if time.monotonic() > until:
            faults.append(f"no time was left for: {words}")
            continue
        change()
        rows.append(_finished(run, words, show))
        faults += _compared(run, folder, words, raw, show)
    return faults


def made(folder, raw, targets):
    """Return a run in a folder on the inputs in another one."""
    parcels = {"path": str(raw / "register.gpkg")}
    imagery = {"path": str(raw / "imagery")}
    return SmallRun(folder, targets, imagery=imagery, parcels=parcels, simulate=None)


def _finished(run, words, show, targets=None):
    """Finish the run; return how many files it has, and how much memory its jobs took."""
    begun = time.time()
    started = run.start(targets=targets)
    most_open = 0
    while started.poll() is None:
        most_open = max(most_open, open_files(started))
        time.sleep(0.2)
    if started.returncode:
        raise AssertionError(f"the run does not finish: {words}\n{run.output}")
    results = run.folder / RUN
    measured = [
        pd.read_csv(file, sep="\t", na_values="-")
        for file in (results / "benchmarks").rglob("*.tsv")
        if file.stat().st_mtime >= begun
    ]
    acquisitions = {path.stem for path in (results / "acquisitions").iterdir()}
    files = [path.relative_to(results) for path in results.rglob("*") if path.is_file()]
    row = {
        "what": words,
        "jobs": len(measured),
        "files": len(files),
        # Those of an acquisition have its name.
        "others": {str(path) for path in files if path.name.split(".")[0] not in acquisitions},
        "open": most_open,
        "memory_mb": max(table["max_rss"].max() for table in measured),
        "left": run.leftovers(),
        "acquisitions": len(acquisitions),
    }
    show(
        f"{words}: {row['acquisitions']} acquisitions, {row['jobs']} jobs, {row['files']} files, "
        f"at most {most_open} open, {row['memory_mb']:.0f} MB, {len(row['left'])} left over"
    )
    return row


def _compared(run, folder, words, raw, show):
    """Compare the run with one from nothing on the same inputs."""
    fresh = made(folder / "fresh", raw, run.targets)
    fresh.finish()
    expected = fresh.contents()
    wrong = list(differences(run.contents(), expected))
    show(f"{words}: {len(expected)} files compared, {len(wrong)} differ")
    shutil.rmtree(fresh.folder)
    return [f"{words}, compared with a run from nothing: {text}" for text in wrong]


def _grown(rows):
    """Say what grows from run to run beside the acquisitions."""
    first, last = rows[0], rows[-1]
    for row in rows:
        for path in row["left"]:
            yield f"{row['what']}: {path} is left"
    # Each acquisition has a fixed number of files: its item, three of its extraction, logs, ...
    each = {(row["files"] - len(row["others"])) / row["acquisitions"] for row in rows}
    if len(each) > 1:
        yield f"the number of files of an acquisition is not always the same: {sorted(each)}"
    for path in sorted(last["others"] - first["others"]):
        # The report shows some parcels of each kind, which it may not have at first.
        if not path.startswith("report/figures/"):
            yield f"{path} is more than at first"
    # Stage assemble maps two files of every acquisition.
    added = last["acquisitions"] - first["acquisitions"]
    if last["open"] > first["open"] + 2 * added + 10:
        yield f"open files grow: {first['open']} at first, {last['open']} at last"
    if last["memory_mb"] > 1.2 * first["memory_mb"] + 50:
        yield f"memory grows: {first['memory_mb']:.0f} MB at first, {last['memory_mb']:.0f} at last"


def _replace(product, other):
    """Give a product the pixels that another one has in one band."""
    (band,), (others,) = (list(p.rglob("*_B04_10m.jp2")) for p in (product, other))
    band.write_bytes(others.read_bytes())


def _change_row(register):
    """Declare another crop for one parcel."""
    with closing(sqlite3.connect(register)) as database:
        (layer,) = database.execute("SELECT table_name FROM gpkg_contents").fetchone()
        rows = f'SELECT "ID_PARCEL", "CODE_CULTU" FROM "{layer}" WHERE "CODE_CULTU" IS NOT NULL'  # noqa: S608
        (chosen, code), *others = database.execute(f"{rows} ORDER BY 1 LIMIT 50").fetchall()
        other = next(crop for _, crop in others if crop != code)
        # The triggers of a GeoPackage call functions that SQLite does not have.
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            database.execute(f'DROP TRIGGER "{name}"')
        update = f'UPDATE "{layer}" SET "CODE_CULTU" = ? WHERE "ID_PARCEL" = ?'  # noqa: S608
        database.execute(update, (other, chosen))
        database.commit()
