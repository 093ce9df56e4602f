"""Extraction and filling on a Dask cluster of processes, which are killed."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import dask
import distributed  # noqa: F401 (its import sets defaults of dask.config)
import pytest
import yaml

from geo.cluster import connect
from geo.errors import InputError, UnavailableError
from geo.imagery.acquisition import read_item
from pipeline.stages.assemble import assemble
from pipeline.stages.extract import extract
from pipeline.workflow.acquisition_table import read_used
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths
from tests.builders.dask_clusters import HUNGRY, SLOW, TIMEOUT, dask_cluster, kill, wait_for
from tests.builders.runs import planned, prepare_dataset, snakemake
from tests.builders.tiles import BANDS, COLUMNS, EAST, WEST, write_scene

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a scene and the settings of a run."""
    folder = tmp_path_factory.mktemp("dask")
    scene = write_scene(folder / "scene")
    settings = {
        "run": "mine",
        "imagery": {"path": str(scene.imagery), "bands": list(BANDS[:-1])},
        "parcels": {"path": str(scene.register), "id": COLUMNS["ID_PARCEL"]},
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """Return a run up to the dataset, by threads of this process."""
    settings = load(yaml.safe_load((folder / "settings.yaml").read_text()))
    return settings, prepare_dataset(settings, folder / "expected")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Return a cluster of two worker processes."""
    with dask_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def short_timeout():
    with dask.config.set({"distributed.comm.timeouts.connect": "3s"}):
        yield


def extract_blocks(run, name, tile, settings, out, scheduler):
    paths = [out / end for end in ("pixels.npy", "valid.npy", "counts.json")]
    extract(
        run.item(name), run.pixel_index(tile), *paths[:2], view(settings, "extract"),
        counts=paths[2], scheduler=scheduler,
    )  # fmt: skip
    return [path.read_bytes() for path in paths]


def extracted(run, name):
    files = run.extracted(name), run.extracted_valid(name), run.extraction_counts(name)
    return [path.read_bytes() for path in files]


def contents(run, names):
    return {name: extracted(run, name) for name in names}


def test_blocks_on_workers_result_in_the_same_bytes(expected, cluster, tmp_path):
    settings, run = expected
    for name, row in read_used(run.acquisitions).items():
        found = extract_blocks(run, name, row.tile, settings, tmp_path, cluster.address)
        assert found == extracted(run, name)
    for tile in {row.tile for row in read_used(run.acquisitions).values()}:
        packed, own = tmp_path / tile, run.dataset.tile(tile)
        small = view(settings, "assemble").model_copy(
            update={"assemble": settings.assemble.model_copy(update={"memory_mb": 1})}
        )
        assemble(
            run.acquisitions, run.extractions, run.pixel_index(tile), packed, small, 1,
            run.counts, cluster.address,
        )  # fmt: skip
        for path in (own.pixels, own.clear, own.observations):
            assert (packed / path.name).read_bytes() == path.read_bytes()


def test_a_task_that_fails_names_the_worker_and_ends_the_others(expected, cluster, tmp_path):
    settings, run = expected
    name, row = next(iter(read_used(run.acquisitions).items()))
    item = tmp_path / "item.json"
    values = json.loads(run.item(name).read_text())
    for asset in values["assets"].values():
        asset["href"] = str(tmp_path / "missing.jp2")
    item.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"On the Dask worker tcp://.*missing\.jp2"):
        extract(
            item, run.pixel_index(row.tile), tmp_path / "p.npy", tmp_path / "v.npy",
            view(settings, "extract"), scheduler=cluster.address,
        )  # fmt: skip
    assert not list(tmp_path.glob("*.npy"))


def parcelwise(folder, cluster, *words):
    """Run `parcelwise run` up to the extractions over a cluster, without waiting for its end."""
    command = [sys.executable, "-m", "pipeline", "run", "settings.yaml", "extractions"]
    own = [f"dask.scheduler={cluster.address}", "--cores", "2"]
    return subprocess.Popen(
        [*command, *own, *words], cwd=folder, env={**os.environ, **TIMEOUT}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process, code=0):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


@pytest.fixture(scope="module")
def prepared(folder):
    """Return a folder with the run up to its pixel indices; nothing is extracted yet."""
    index = RunPaths(Path("results", "mine")).pixel_index
    snakemake(folder, "--cores", "2", index(WEST), index(EAST))
    return folder


@pytest.fixture
def own(prepared, tmp_path):
    """Return a copy of the prepared run."""
    shutil.copytree(prepared, tmp_path / "own", ignore=shutil.ignore_patterns("scene", "expected"))
    return tmp_path / "own"


def test_one_command_extracts_all_as_a_run_without_dask(expected, cluster, prepared, own):
    _, reference = expected
    run, names = RunPaths(own / "results" / "mine"), list(read_used(reference.acquisitions))
    output = finish(parcelwise(own, cluster))
    assert f"extracted {len(names)} of {len(names)} acquisitions" in output
    assert contents(run, names) == contents(reference, names)
    log = (own / run.log(f"extract/{names[0]}")).read_text()
    assert re.fullmatch(r"pipeline\.stages\.extract: \S+: \d+ pixels of .*clear\n", log)
    assert planned(own, "extractions") == {}
    # Snakemake has recorded the same as if it had run the job itself.
    file = str(RunPaths(Path("results", "mine")).extracted(names[0]))
    assert recorded(own, file) == recorded(plain(prepared, own, file), file)
    run.item(names[0]).write_text(run.item(names[0]).read_text() + "\n")
    assert planned(own, "extractions") == {"extract": 1, "extractions": 1, "total": 2}


def plain(prepared, own, file):
    """Make a file in another copy of the prepared run, without Dask, and return the folder."""
    other = own.with_name("plain")
    shutil.copytree(prepared, other, ignore=shutil.ignore_patterns("scene", "expected"))
    snakemake(other, "--cores", "1", file)
    return other


def recorded(folder, file):
    """Return what Snakemake has recorded about a file, by which it decides what runs again."""
    name = base64.b64encode(file.encode()).decode()
    record = json.loads((folder / ".snakemake" / "metadata" / name).read_text())
    where_and_when = ("shellcmd", "job_hash", "starttime", "endtime")
    return {k: v for k, v in record.items() if k not in where_and_when}


def test_a_worker_that_is_killed_is_replaced_by_another(expected, own):
    _, reference = expected
    run, names = RunPaths(own / "results" / "mine"), list(read_used(reference.acquisitions))
    with dask_cluster(own / "cluster", preload=SLOW) as cluster:
        process = parcelwise(own, cluster)
        wait_for(lambda: any(run.extractions.glob("*.valid.npy")))
        kill(cluster.workers[0])
        finish(process)
    assert contents(run, names) == contents(reference, names)


def test_a_lost_scheduler_ends_the_run_which_can_be_continued(expected, cluster, own):
    _, reference = expected
    run, names = RunPaths(own / "results" / "mine"), list(read_used(reference.acquisitions))
    with dask_cluster(own / "cluster", preload=SLOW) as lost:
        process = parcelwise(own, lost)
        wait_for(lambda: any(run.extractions.glob("*.valid.npy")))
        kill(lost.scheduler)
        output = finish(process, code=1)
    assert output.count(f"The Dask scheduler {lost.address} cannot be reached any more.") == 1
    assert "Traceback" not in output
    done = [name for name in names if run.extracted(name).is_file()]
    assert contents(run, done) == contents(reference, done)
    assert len(done) < len(names)
    output = finish(parcelwise(own, lost), code=1)
    assert f"no Dask scheduler answers at {lost.address}" in output
    assert "Traceback" not in output
    finish(parcelwise(own, cluster))
    assert contents(run, names) == contents(reference, names)


def test_a_worker_with_another_version_is_refused_once(own):
    preload = (
        "import pipeline.worker\npipeline.worker.loaded_version = lambda: 'parcelwise 0.0.1'\n"
    )
    with dask_cluster(own / "cluster", n_workers=1, preload=preload) as cluster:
        output = finish(parcelwise(own, cluster), code=1)
    assert len(re.findall(r"The Dask worker tcp://.* runs parcelwise 0\.0\.1", output)) == 1
    assert "Traceback" not in output
    assert not list(Path(own, "results", "mine", "extracted").glob("*.npy"))


def test_workers_that_die_of_a_block_again_and_again_end_with_its_name(expected, own):
    settings, run = expected
    name, row = next(iter(read_used(run.acquisitions).items()))
    product = read_item(run.item(name)).product.name
    preload = HUNGRY.replace("NAME", product)
    with dask_cluster(own / "cluster", n_workers=1, preload=preload, memory="500MB") as cluster:
        with pytest.raises(UnavailableError) as raised:
            extract_blocks(run, name, row.tile, settings, own, cluster.address)
        assert re.match(
            rf"{name}: 4 Dask workers died, the last one at tcp://\S+, while they processed B.* "
            rf"of \S+{product}\S+ at rows \d+-\d+, columns \d+-\d+\. Usually they need",
            str(raised.value),
        ), str(raised.value)
        output = finish(parcelwise(own, cluster), code=1)
    found = re.findall(r"4 Dask workers died, .*, while they read (\S+)\. Usually .*", output)
    assert set(found) == {name}, output
    assert "Traceback" not in output
    assert not run_files(own, name)


def run_files(own, name):
    return list((own / "results" / "mine").rglob(f"*{name}*.npy"))


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_service_that_is_not_a_scheduler_is_refused_in_bounded_time(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "tcp://{}:{}".format(*server.getsockname())
        thread = threading.Thread(target=serve, args=(server, answer), daemon=True)
        thread.start()
        # The limit of the fixture is 3 s; without it, Dask waits for ever.
        with pytest.raises(InputError, match=rf"no Dask scheduler answers at {address} \("):
            connect(address)


def serve(server, answer):
    """Accept connections, and keep them open."""
    kept = []
    with suppress(OSError):  # closed at the end of the test
        while True:
            connection, _ = server.accept()
            kept.append(connection)
            if answer is not None:
                connection.sendall(answer)
