"""The short form of `make kill` and `make soak`: runs up to the dataset."""

import pytest

from tests.endurance.faults import faults, judged
from tests.endurance.kill import kill
from tests.endurance.small_run import differing
from tests.endurance.soak import soak

pytestmark = pytest.mark.slow
DATASET = ("dataset",)


def test_killed_runs_continue_to_the_same_bytes(tmp_path):
    shown = []
    assert kill(tmp_path, 3, seed=1, show=shown.append, targets=DATASET) == []
    kills = [line.split(":")[0] for line in shown if line.startswith("kill")]
    assert kills == [f"kill {n} of 3" for n in (1, 2, 3)]


def test_an_acquisition_that_is_added_equals_a_run_with_all(tmp_path):
    shown = []
    assert soak(tmp_path, 1, show=shown.append, targets=DATASET, changed=False) == []
    assert "all added" in shown[-1]
    assert shown[-1].endswith("0 differ")


def test_a_second_run_in_a_folder_is_refused_and_harms_nothing(tmp_path):
    shown = []
    only = ["two runs in one folder"]
    assert faults(tmp_path, shown.append, only, targets=DATASET) == []
    assert len(shown) == 1


def test_what_differs_and_what_is_said_is_judged():
    assert differing({"a": b"1", "b": b"1"}, {"a": b"1", "b": b"2", "c": b""}) == ["b", "c"]
    assert list(judged("no space left", "space")) == []
    assert [text.split(":")[0] for text in judged("Traceback ...", "space", "x: ")] == ["x", "x"]
