"""The benchmarks: contestants in turn, their outputs checked, goals judged by ratios of medians."""

import json
import subprocess
import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import __main__ as runner
from benchmarks import model_choice
from benchmarks.contest import OUT, Contest, Contestant, Goal, missing_package
from benchmarks.measuring import measure
from benchmarks.outcome import Spread, judge
from benchmarks.publish import publish
from benchmarks.results import Results, read_json, write_json, write_report
from benchmarks.running import run_contest
from models.pixel_sets import PixelSets
from tests.builders.paths import ROOT

PNG = b"\x89PNG"


def python(name, code, **others):
    return Contestant(name, [sys.executable, "-c", code, OUT], **others)


def in_turn(tmp_path, contest, runs=3):
    said = []
    work = tmp_path / "outs"
    work.mkdir()
    outcome = run_contest("made_up", contest, work, runs, said.append)
    assert {p.name for p in work.iterdir()} <= {"left-out"}
    return outcome, said


def test_contestants_run_in_turn_each_in_a_fresh_folder(tmp_path):
    log = tmp_path / "log"
    code = (
        "import pathlib, sys; out = pathlib.Path(sys.argv[1]); assert not list(out.iterdir());"
        f"(out / 'a').write_text(''); open({str(log)!r}, 'a').write('{{}}')"
    )
    contest = Contest("c", [python(n, code.format(n)) for n in "ABC"], runs=2)
    in_turn(tmp_path, contest)
    assert log.read_text() == "ABCABC"


def test_a_process_is_measured_and_prints_figures_of_its_own(tmp_path):
    code = "x = b'1' * 300_000_000; print('{\"rate\": 7}'); import sys; print('w', file=sys.stderr)"
    figures = measure(python("big", code), tmp_path)
    assert figures["rate"] == 7
    assert 300 < figures["peak_mb"] < 400
    assert 0 < figures["seconds"] < 60


def test_the_memory_of_the_one_who_measures_does_not_count(tmp_path):
    large = bytearray(b"1") * 500_000_000
    assert measure(python("small", ""), tmp_path)["peak_mb"] < 100
    assert len(large) == 500_000_000


def test_the_ratio_is_that_of_the_medians_and_its_spread_that_of_pairs():
    contest = Contest(
        "c",
        [python("ours", ""), python("peer", "")],
        goals=[
            Goal("rate", "ours", over="peer", at_least=2),
            Goal("rate", "ours", over="peer", at_least=5),
            Goal("seconds", "ours", at_most=3),
            Goal("absent", "ours", at_most=3),
        ],
    )
    ours = [{"rate": r, "seconds": 2.0} for r in (10.0, 40.0, 20.0)]
    peer = [{"rate": r} for r in (5.0, 4.0, 8.0)]
    outcome = judge("m", contest, {"ours": ours, "peer": peer}, {})
    assert outcome.figures["ours"]["rate"] == Spread(20, 10, 40, [10, 40, 20])
    assert [g.met for g in outcome.goals] == [True, False, True, None]
    assert outcome.goals[0].measured == Spread(4, 2, 10)


def test_what_is_missing_is_left_out_and_the_goal_not_judged(tmp_path):
    contest = Contest(
        "c",
        [python("ours", ""), python("peer", "", missing=missing_package("no_such_package"))],
        goals=[Goal("seconds", "ours", over="peer", at_most=1)],
    )
    outcome, said = in_turn(tmp_path, contest, runs=1)
    assert "pip install -r benchmarks/requirements.txt" in outcome.left_out["peer"]
    assert any(line.startswith("  left out: peer") for line in said)
    assert outcome.goals[0].met is None
    assert not outcome.failed
    assert missing_package("json") is None


def test_a_contestant_that_fails_is_not_run_again_and_says_why(tmp_path):
    contest = Contest("c", [python("ours", ""), python("bad", "raise SystemExit('no luck')")])
    outcome, said = in_turn(tmp_path, contest)
    assert "no luck" in outcome.failed["bad"]
    assert list(outcome.figures) == ["ours"]
    assert len(outcome.figures["ours"]["seconds"].values) == 3
    assert sum("FAILED" in line for line in said) == 1


@pytest.mark.parametrize(("other", "differ"), [("1", False), ("2", True)])
def test_outputs_are_compared(tmp_path, other, differ):
    code = "import pathlib, sys; (pathlib.Path(sys.argv[1]) / 'x').write_text('{}')"
    compare = (
        "import pathlib, sys; a, b = (pathlib.Path(p, 'x').read_text() for p in sys.argv[1:]);"
        "assert a == b, 'they differ'"
    )
    contest = Contest(
        "c",
        [python("a", code.format(1)), python("b", code.format(other))],
        check=[sys.executable, "-c", compare, "{out:a}", "{out:b}"],
    )
    outcome, _ = in_turn(tmp_path, contest, runs=2)
    assert list(outcome.failed) == ["check"] * differ
    assert all("they differ" in printed for printed in outcome.failed.values())


def test_a_goal_names_contestants_and_one_bound():
    with pytest.raises(ValueError, match="names no contestant"):
        Contest("c", [python("a", "")], goals=[Goal("seconds", "b", at_most=1)])
    with pytest.raises(ValueError, match="one of at_most and at_least"):
        Goal("seconds", "a")
    with pytest.raises(ValueError, match="one name"):
        Contest("c", [python("a", ""), python("a", "")])


@pytest.fixture
def results():
    contestants = [python("ours", ""), python("peer", "")]
    figures = {
        "ours": [{"seconds": 2.0, "peak_mb": 1200.0}, {"seconds": 3.0, "peak_mb": 1100.0}],
        "peer": [{"seconds": 30.0, "peak_mb": 3000.0}, {"seconds": 20.0, "peak_mb": 3000.0}],
    }
    goals = [
        Goal("seconds", "peer", over="ours", at_least=8),
        Goal("peak_mb", "ours", at_most=1000),
    ]
    outcomes = [
        judge("m", Contest("sorting", contestants, goals), figures, {"check": "they differ"})
    ]
    outcomes += [
        judge("m", Contest(f"x {x}", contestants, curve=("dates, in sorting", x)), figures, {})
        for x in (6, 24)
    ]
    machine = {"processor": "P", "cores": "2", "memory": "4 GiB", "gpu": "none", "system": "S"}
    return Results("2020-01-02 03:04", {**machine, "numpy": "9.9"}, 2, False, outcomes)


def test_results_survive_being_written(tmp_path, results):
    write_json(results, tmp_path / "r.json")
    assert read_json(tmp_path / "r.json") == results
    assert json.loads((tmp_path / "r.json").read_text())["machine"]["cores"] == "2"


def test_the_table_says_what_was_measured_missed_and_failed(tmp_path, results):
    text = write_report([results], tmp_path, "r").read_text()
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    assert [
        "sorting",
        "s, whole process, peer over ours",
        "10 (6.67 to 15)",
        "at least 8",
        "yes",
    ] in rows
    assert ["sorting", "peak MB, ours", "1,150 (1,100 to 1,200)", "at most 1,000", "**no**"] in rows
    assert ["ours", "2.5 (2 to 3)", "1,150 (1,100 to 1,200)"] in rows
    assert ["", "dates", "6", "24"] in rows
    assert "they differ" in text
    assert "2 cores" in text
    assert "numpy 9.9" in text
    for plot in ("r-ratios.png", "r-growth.png"):
        assert f"({plot})" in text
        assert (tmp_path / plot).read_bytes()[:4] == PNG


@pytest.mark.parametrize(("code", "rc"), [("", 0), ("raise SystemExit(3)", 1)])
def test_the_runner_writes_results_and_fails_where_a_contestant_does(
    tmp_path, monkeypatch, capsys, code, rc
):
    def contests(work, quick):
        assert quick
        (work / "input").write_text("")
        goal = Goal("seconds", "ours", at_most=0)  # missed: no reason to fail
        return [Contest("c", [python("ours", code)], [goal])]

    module = types.SimpleNamespace(contests=contests)
    monkeypatch.setitem(sys.modules, "benchmarks.made_up", module)
    monkeypatch.setattr(runner, "find_benchmarks", lambda: ["made_up"])
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "results")
    words = ["made_up", "--quick", "--work", str(tmp_path / "work"), "--name", "r"]
    assert runner.main(words) == rc
    assert "# Benchmarks" in capsys.readouterr().out
    assert read_json(tmp_path / "results" / "r.json").failed == bool(rc)
    assert (tmp_path / "work" / "made_up" / "quick" / "input").is_file()
    assert runner.main(["other"]) == 2


def test_every_benchmark_is_found_and_explained():
    shown = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    names = runner.find_benchmarks()
    assert all(name in shown.stdout for name in names)
    explained = (ROOT / "benchmarks" / "README.md").read_text()
    assert all(f"**{name}**: " in explained for name in names)


def test_runs_are_published_together_but_none_that_only_tested(tmp_path, results):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    write_json(results, first)
    write_json(replace(results, started="2020-05-06 07:08"), second)
    folder = tmp_path / "measured"
    text = publish([first, second], folder).read_text()
    assert "2020-01-02 03:04" in text
    assert "2020-05-06 07:08" in text
    assert read_json(folder / "run-1.json") == results
    write_json(replace(results, quick=True), second)
    with pytest.raises(SystemExit, match=r"b\.json"):
        publish([second], folder)


def test_models_are_compared_on_what_they_did_not_see(tmp_path, monkeypatch):
    labels = np.tile([0, 1, -1], 20)
    series = np.where(labels == 1, 3000, 1000)[:, None, None] * np.ones((1, 4, 2))
    data = PixelSets(
        ids=[str(i) for i in range(60)],
        pixels=(series + np.arange(60)[:, None, None]).astype(np.uint16),
        offsets=np.arange(61),
        days=np.tile([0, 30, 60, 90], (60, 1)),
        labels=labels,
    )
    groups = np.arange(60) // 6
    parts = model_choice._divided(data, groups)
    assert sorted(np.concatenate(parts)) == np.flatnonzero(labels >= 0).tolist()
    assert sum(len(set(groups[part])) for part in parts) == 10
    parts = [np.concatenate(parts[:2]), np.concatenate(parts[2:4]), parts[4]]
    task = model_choice.Task("tiny", data, parts, {"epochs": 1, "batch_size": 16})
    for fold in task.folds:
        roles = (fold.train, fold.validation, fold.test)
        assert len(np.unique(np.concatenate(roles))) == 40
    compared = model_choice.compare(task, tmp_path)
    assert {method: len(matrices) for method, matrices in compared.items()} == {
        "majority": 1, "random_forest": 1, "logistic_regression": 1,
        "psetae": 3, "psetae, 3 averaged": 1, "pseltae": 3, "pseltae, 3 averaged": 1,
    }  # fmt: skip
    for matrix in (matrix for matrices in compared.values() for matrix in matrices):
        assert matrix.sum(axis=1).tolist() == [20, 20]
    assert compared["random_forest"][0].tolist() == [[20, 0], [0, 20]]
    # An interrupted comparison goes on with what it has.
    monkeypatch.setattr(model_choice.CropModel, "fit", None)
    kept = [model_choice._scores(task, "pseltae", k, 2, tmp_path) for k in range(3)]
    pooled = model_choice._pooled(task, kept)
    np.testing.assert_array_equal(pooled, compared["pseltae"][1])
