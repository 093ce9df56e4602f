"""What a Dask cluster must have, and what its scheduler setting may be."""

import json
import re

import pytest

from geo.cluster import check_versions
from geo.errors import InputError
from pipeline.workflow.config import load
from pipeline.workflow.launch import snakemake_call

PACKAGES = {
    "python": "3.11.7.final.0",
    **{"dask": "1", "distributed": "1", "numpy": "2", "rasterio": "1.4", "parcelwise": "0.1"},
}
VERSIONS = {
    "client": {"packages": PACKAGES},
    "scheduler": {"packages": PACKAGES},
    "workers": {"tcp://a:1": {"packages": PACKAGES}, "tcp://b:1": {"packages": PACKAGES}},
}


@pytest.mark.parametrize(
    ("package", "version", "refused"),
    [
        ("python", "3.11.9.final.0", None),
        ("python", "3.12.1.final.0", "worker tcp://b:1 has python 3.12, here it is 3.11"),
        ("numpy", "1.26", "worker tcp://b:1 has numpy 1.26, here it is 2"),
        ("parcelwise", None, "worker tcp://b:1 has parcelwise not installed, here it is 0.1"),
        ("msgpack", "9", None),
    ],
)
def test_workers_need_the_versions_on_which_pixels_depend(package, version, refused):
    versions = json.loads(json.dumps(VERSIONS))
    versions["workers"]["tcp://b:1"]["packages"][package] = version
    if refused is None:
        check_versions(versions, "tcp://s:8786")
        return
    with pytest.raises(InputError, match=re.escape(refused)):
        check_versions(versions, "tcp://s:8786")


@pytest.mark.parametrize("address", ["host", "host:8786", "tcp://host:8786; rm", "tcp://"])
def test_a_scheduler_is_an_address(address):
    with pytest.raises(InputError, match=r"dask\.scheduler"):
        load({"dask": {"scheduler": address}})


@pytest.mark.parametrize("option", ["--executor", "--workflow-profile=profiles/slurm"])
def test_another_executor_beside_a_dask_cluster_is_refused(tmp_path, option):
    settings = tmp_path / "settings.yaml"
    settings.write_text("dask: {scheduler: 'tcp://host:8786'}")
    command, environment = snakemake_call([str(settings)])
    assert command[-2:] == ["--executor", "dask"]
    assert environment["PARCELWISE_DASK_SCHEDULER"] == "tcp://host:8786"
    with pytest.raises(InputError, match="would send the jobs elsewhere"):
        snakemake_call([str(settings), "--", option, "slurm"])
