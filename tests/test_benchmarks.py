"""The benchmarks: candidates in turn, their outputs checked, thresholds on ratios of medians."""

import json
import subprocess
import sys
import types
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import __main__ as runner
from benchmarks import accuracy_doubts, gpu, model_choice, recipe_search
from benchmarks.harness import (
    OUT,
    Benchmark,
    Candidate,
    Result,
    Spread,
    Threshold,
    measure,
    missing_package,
    run_benchmark,
)
from benchmarks.report import Run, publish, read_json, tables, write_json
from models.classifier import ParcelClassifier
from models.hyperparameters import Hyperparameters
from models.pixel_sets import PixelSets
from tests.builders.paths import ROOT

pytestmark = pytest.mark.slow


def python(name, code, **others):
    return Candidate(name, [sys.executable, "-c", code, OUT], **others)


def run_in_turn(tmp_path, benchmark, runs=3):
    said = []
    work = tmp_path / "outs"
    work.mkdir()
    result = run_benchmark(benchmark, work, runs, said.append)
    assert {p.name for p in work.iterdir()} <= {"left-out"}
    return result, said


def test_candidates_run_in_turn_each_in_a_fresh_folder(tmp_path):
    log = tmp_path / "log"
    code = (
        "import pathlib, sys; out = pathlib.Path(sys.argv[1]); assert not list(out.iterdir());"
        f"(out / 'a').write_text(''); open({str(log)!r}, 'a').write('{{}}')"
    )
    benchmark = Benchmark("b", [python(n, code.format(n)) for n in "ABC"], runs=2)
    run_in_turn(tmp_path, benchmark)
    assert log.read_text() == "ABCABC"


def test_a_process_is_measured_and_prints_its_own_figures(tmp_path):
    code = "x = b'1' * 300_000_000; print('{\"rate\": 7}'); import sys; print('w', file=sys.stderr)"
    figures = measure(python("big", code), tmp_path)
    assert figures["rate"] == 7
    assert 300 < figures["peak_mb"] < 400
    assert 0 < figures["seconds"] < 60


def test_the_memory_of_the_harness_does_not_count(tmp_path):
    large = bytearray(b"1") * 500_000_000
    assert measure(python("small", ""), tmp_path)["peak_mb"] < 100
    assert len(large) == 500_000_000


def test_the_ratio_is_that_of_the_medians_and_its_spread_that_of_pairs():
    figures = {
        "ours": {"rate": [10.0, 40.0, 20.0], "seconds": [2.0] * 3},
        "peer": {"rate": [5.0, 4.0, 8.0]},
    }
    result = Result("b", [], figures, {}, {})
    assert result.spread("rate", "ours") == Spread(20, 10, 40)
    assert result.spread("rate", "ours", over="peer") == Spread(4, 2, 10)
    assert result.spread("seconds", "ours", over="peer") is None
    assert result.spread("absent", "ours") is None


def test_a_missing_candidate_is_left_out(tmp_path):
    benchmark = Benchmark(
        "b",
        [python("ours", ""), python("peer", "", missing=missing_package("no_such_package"))],
        [Threshold("seconds", "ours", over="peer", at_most=1)],
    )
    result, said = run_in_turn(tmp_path, benchmark, runs=1)
    assert "pip install -r benchmarks/requirements.txt" in result.left_out["peer"]
    assert any(line.startswith("  left out: peer") for line in said)
    assert "not measured" in tables(Run("2020-01-02", MACHINE, 1, False, [result]))
    assert not result.failed
    assert missing_package("json") is None


def test_a_failing_candidate_is_not_run_again_and_its_output_is_kept(tmp_path):
    benchmark = Benchmark("b", [python("ours", ""), python("bad", "raise SystemExit('no luck')")])
    result, said = run_in_turn(tmp_path, benchmark)
    assert "no luck" in result.failed["bad"]
    assert list(result.figures) == ["ours"]
    assert len(result.figures["ours"]["seconds"]) == 3
    assert sum("FAILED" in line for line in said) == 1


@pytest.mark.parametrize(("other", "differ"), [("1", False), ("2", True)])
def test_outputs_are_compared(tmp_path, other, differ):
    code = "import pathlib, sys; (pathlib.Path(sys.argv[1]) / 'x').write_text('{}')"
    compare = (
        "import pathlib, sys; a, b = (pathlib.Path(p, 'x').read_text() for p in sys.argv[1:]);"
        "assert a == b, 'they differ'"
    )
    benchmark = Benchmark(
        "b",
        [python("a", code.format(1)), python("b", code.format(other))],
        check=[sys.executable, "-c", compare, "{out:a}", "{out:b}"],
    )
    result, _ = run_in_turn(tmp_path, benchmark, runs=2)
    assert list(result.failed) == ["check"] * differ
    assert all("they differ" in printed for printed in result.failed.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Benchmark("b", [python("a", "")], [Threshold("seconds", "b", at_most=1)]),
            "names no candidate",
        ),
        (lambda: Threshold("seconds", "a"), "one of at_most and at_least"),
        (lambda: Benchmark("b", [python("a", ""), python("a", "")]), "the same name"),
    ],
)
def test_refuses_inconsistent_definitions(make, message):
    with pytest.raises(ValueError, match=message):
        make()


MACHINE = {
    "processor": "P", "cores": "2", "memory": "4 GiB", "gpu": "none", "system": "S",
    "numpy": "9.9",
}  # fmt: skip


@pytest.fixture
def run():
    result = Result(
        "sorting",
        [
            Threshold("seconds", "peer", over="ours", at_least=8),
            Threshold("peak_mb", "ours", at_most=1000),
        ],
        {
            "ours": {"seconds": [2.0, 3.0], "peak_mb": [1200.0, 1100.0]},
            "peer": {"seconds": [30.0, 20.0], "peak_mb": [3000.0, 3000.0]},
        },
        {},
        {"check": "they differ"},
    )
    return Run("2020-01-02 03:04", MACHINE, 2, False, [result])


def test_results_survive_a_round_trip(tmp_path, run):
    write_json(run, tmp_path / "r.json")
    assert read_json(tmp_path / "r.json") == run
    assert json.loads((tmp_path / "r.json").read_text())["machine"]["cores"] == "2"


def test_tables_contain_figures_thresholds_and_failures(run):
    text = tables(run)
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    ratio = ["s, whole process, peer over ours", "10 (6.67 to 15)", "at least 8", "yes"]
    assert ["sorting", *ratio] in rows
    assert ["sorting", "peak MB, ours", "1,150 (1,100 to 1,200)", "at most 1,000", "**no**"] in rows
    assert ["ours", "2.5 (2 to 3)", "1,150 (1,100 to 1,200)"] in rows
    assert "they differ" in text
    assert "2 cores" in text
    assert "numpy 9.9" in text


@pytest.mark.parametrize(("code", "rc"), [("", 0), ("raise SystemExit(3)", 1)])
def test_the_command_writes_results_and_fails_if_a_candidate_does(
    tmp_path, monkeypatch, capsys, code, rc
):
    def made_up(work, quick):
        assert quick
        (work / "input").write_text("")
        threshold = Threshold("seconds", "ours", at_most=0)  # not met, which is not a failure
        return [Benchmark("b", [python("ours", code)], [threshold])]

    monkeypatch.setitem(sys.modules, "benchmarks.made_up", types.SimpleNamespace(made_up=made_up))
    monkeypatch.setattr(runner, "BENCHMARKS", {"made_up": "benchmarks.made_up:made_up"})
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "results")
    words = ["made_up", "--quick", "--work", str(tmp_path / "work"), "--name", "r"]
    assert runner.main(words) == rc
    assert "# Benchmarks" in capsys.readouterr().out
    assert read_json(tmp_path / "results" / "r.json").failed == bool(rc)
    assert (tmp_path / "results" / "r.md").is_file()
    assert (tmp_path / "work" / "made_up" / "quick" / "input").is_file()
    assert runner.main(["other"]) == 2


def test_every_benchmark_exists_and_is_explained():
    shown = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    explained = (ROOT / "benchmarks" / "README.md").read_text()
    for name, place in runner.BENCHMARKS.items():
        module, _, function = place.partition(":")
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
        assert f"\ndef {function}(" in source
        assert name in shown.stdout
        assert f"**{name}**: " in explained


def test_runs_are_published_together_unless_they_only_tested(tmp_path, run):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    write_json(run, first)
    write_json(replace(run, started="2020-05-06 07:08"), second)
    folder = tmp_path / "measured"
    text = publish([first, second], folder).read_text()
    assert "2020-01-02 03:04" in text
    assert "2020-05-06 07:08" in text
    assert read_json(folder / "run-1.json") == run
    write_json(replace(run, quick=True), second)
    with pytest.raises(SystemExit, match=r"b\.json"):
        publish([second], folder)


def test_without_a_gpu_the_benchmark_of_the_gpu_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(gpu.DEVICE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "results")
    assert runner.main(["gpu"]) == 0
    assert "torch finds no GPU, so nothing is measured" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_the_gpu_has_a_candidate_for_each_precision_and_mode(tmp_path, monkeypatch):
    monkeypatch.setenv(gpu.DEVICE, "cuda")
    epoch, accuracy = gpu.gpu(tmp_path, quick=False)
    names = [f"{p}, {mode}" for p in gpu.PRECISIONS for mode in gpu.MODES]
    assert [candidate.name for candidate in epoch.candidates] == names
    assert [candidate.name for candidate in accuracy.candidates] == [gpu.ON_CPU, *names]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler's
@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_the_code_for_the_gpu_runs_on_the_cpu(mode, monkeypatch):
    points = PixelSets(
        ids=[str(i) for i in range(60)],
        pixels=np.random.default_rng(1).integers(0, 4000, (60, 3, 2), np.uint16),
        offsets=np.arange(61),
        days=np.tile([0, 30, 60], (60, 1)),
        labels=np.arange(60) % 2,
    )
    monkeypatch.setattr(gpu, "read_canada", lambda _: (points, None))
    options = Namespace(device="cpu", precision="bfloat16", mode=mode, **gpu.QUICK)
    figures = gpu.epoch(options)
    assert figures["parcels_per_second"] == pytest.approx(16_000 / figures["ms_per_step"])
    assert 0 <= gpu.accuracy(options)["accuracy_percent"] <= 100


def test_the_models_with_batched_weights_are_those_of_the_classifier():
    recipe = recipe_search.parse("d_model=64,n_head=4")
    batched = recipe_search.Models(2, 2, (3, 1, 4), recipe, torch.device("cpu"))
    generator = torch.Generator().manual_seed(3)
    for name, values in batched.statistics.items():
        values.copy_(torch.rand(values.shape, generator=generator) + ("variance" in name))
    pixels = torch.randn(2, 5, 6, 7, 3, generator=generator)  # (M, B, S, T, C)
    mask = torch.rand(2, 5, 6, generator=generator) < 0.7
    mask[:, :, 0] = True
    days = torch.arange(7).expand(2, 5, 7) * 20
    observed = torch.rand(2, 5, 7, generator=generator) < 0.6
    observed[:, :, 0] = True
    features = torch.randn(2, 5, 1, generator=generator)
    with torch.no_grad():
        found = batched(pixels, mask, days, features, observed)
    layers = {
        "spatial_encoder.mlp1.0.lin": "pixel1", "spatial_encoder.mlp1.0.bn": "pixel1.norm",
        "spatial_encoder.mlp1.1.lin": "pixel2", "spatial_encoder.mlp1.1.bn": "pixel2.norm",
        "spatial_encoder.mlp2.0": "set", "spatial_encoder.mlp2.1": "set.norm",
        "temporal_encoder.inlayernorm": "norm_in", "temporal_encoder.outlayernorm": "norm_out",
        "temporal_encoder.inconv.0": "project", "temporal_encoder.inconv.1": "norm_project",
        "temporal_encoder.attention_heads.fc1_k": "keys",
        "temporal_encoder.mlp.0": "series", "temporal_encoder.mlp.1": "series.norm",
        "decoder.0": "decode0", "decoder.1": "decode0.norm",
        "decoder.3": "decode1", "decoder.4": "decode1.norm", "decoder.6": "decode2",
    }  # fmt: skip
    hyperparameters = Hyperparameters.for_data(
        "pseltae", n_channels=3, n_classes=4, n_extra=1, d_model=64, n_head=4, mlp3=(0, 128)
    )
    for number in range(2):
        model = ParcelClassifier(hyperparameters, torch.Generator().manual_seed(1)).eval()
        state = model.state_dict()
        state["temporal_encoder.attention_heads.Q"] = batched.weights["queries"][number]
        for layer, name in layers.items():
            for part in ("weight", "bias"):
                own = batched.weights[f"{name}.{part}"][number].detach().T
                state[f"{layer}.{part}"] = own.reshape(state[f"{layer}.{part}"].shape)
            if (statistics := name.removesuffix(".norm")) != name:
                for part, kind in (("running_mean", "mean"), ("running_var", "variance")):
                    own = batched.statistics[f"{statistics}.{kind}"][number]
                    state[f"{layer}.{part}"] = own.flatten()
        model.load_state_dict(state)
        expected = model(
            pixels[number].permute(0, 2, 3, 1),
            mask[number, :, None].expand(5, 7, 6),
            *(days[number], features[number], observed[number]),
        )
        torch.testing.assert_close(found[number], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_recipes_are_searched_on_the_cpu():
    labels = np.tile([0, 1, 2], 20)
    data = PixelSets(
        ids=[str(i) for i in range(60)],
        pixels=np.full((120, 4, 2), 1000 * (1 + np.repeat(labels, 2))[:, None, None], np.uint16),
        offsets=np.arange(61) * 2,
        days=np.tile([0, 30, 60, 90], (60, 1)),
        labels=labels,
    )
    task = model_choice.Task("tiny", data, np.array_split(np.arange(60), 3), {"epochs": 1})
    search = recipe_search.Search(task, torch.device("cpu"))
    every = (
        "epochs=1,date_dropping=0.3,haze=0.1,haze_by_band=0.1,gain=0.1,shift_days=2,mixup=0.2,"
        "balance=0.5,label_smoothing=0.1,same_batches=1,shared_encoder=1,pixels=1,batch_size=10"
    )
    for text, least in (("epochs=12,batch_size=10", 0.9), (every, 0.0)):
        scores = search.score(recipe_search.parse(text))
        assert {part: len(own) for part, own in scores.items()} == {"validation": 3, "test": 3}
        assert all(own["Accuracy"] >= least for own in scores["test"])


def test_models_are_compared_on_test_parcels(tmp_path, monkeypatch):
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
    parts = model_choice.divided(data, groups)
    assert sorted(np.concatenate(parts)) == np.flatnonzero(labels >= 0).tolist()
    assert sum(len(set(groups[part])) for part in parts) == 10
    parts = [np.concatenate(parts[:2]), np.concatenate(parts[2:4]), parts[4]]
    task = model_choice.Task("tiny", data, parts, {"epochs": 1, "batch_size": 16})
    for fold in task.folds:
        roles = (fold.train, fold.validation, fold.test)
        assert len(np.unique(np.concatenate(roles))) == 40
    compared = model_choice.compare(task, tmp_path)
    assert {method: len(matrices) for method, matrices in compared.items()} == {
        "majority": 1, "gradient_boosting": 1, "random_forest": 1, "logistic_regression": 1,
        "psetae": 3, "psetae, 3 averaged": 1, "pseltae": 3, "pseltae, 3 averaged": 1,
    }  # fmt: skip
    for matrix in (matrix for matrices in compared.values() for matrix in matrices):
        assert matrix.sum(axis=1).tolist() == [20, 20]
    assert compared["random_forest"][0].tolist() == [[20, 0], [0, 20]]
    # An interrupted comparison continues with the scores that it has.
    monkeypatch.setattr(model_choice.CropModel, "fit", None)
    scores = [model_choice._scores(task, "pseltae", k, 2, tmp_path) for k in range(3)]
    pooled = model_choice._pooled(task, scores)
    np.testing.assert_array_equal(pooled, compared["pseltae"][1])


def test_label_qualities_and_issues_are_cleanlabs():
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 0])
    probabilities = np.array(
        [
            *([0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.4, 0.35, 0.25], [0.2, 0.6, 0.2]),
            *([0.55, 0.3, 0.15], [0.3, 0.5, 0.2], [0.05, 0.15, 0.8], [0.34, 0.33, 0.33]),
            *([0.6, 0.1, 0.3], [0.25, 0.25, 0.5]),
        ]
    )
    # Computed by cleanlab 2.9.0.
    issues = [1, 4, 8, 9]
    margin = [
        *(0.76871757, 0.23498888, 0.56856931, 0.63157895, 0.34247591),
        *(0.54262417, 0.78280208, 0.44477391, 0.31578947, 0.43958488),
    ]
    confidence = [
        *(0.72424018, 0.19051149, 0.45737583, 0.54262417, 0.27575982),
        *(0.45366938, 0.71163825, 0.29355078, 0.26686434, 0.32394366),
    ]
    found = accuracy_doubts.is_label_issue(labels, probabilities)
    assert np.flatnonzero(found).tolist() == issues
    qualities = accuracy_doubts.label_qualities(labels, probabilities)
    own = qualities["self-confidence, adjusted for class thresholds"]
    np.testing.assert_allclose(own, confidence, atol=1e-8)
    own = qualities["normalised margin, adjusted for class thresholds"]
    np.testing.assert_allclose((own + 1) / 2, margin, atol=1e-8)


@pytest.mark.parametrize("others", [None, np.array([1, 2, 0])])
def test_only_right_declarations_are_flipped(others):
    labels = np.tile([0, 1, 2, -1], 100)
    truth = np.where(np.arange(400) < 100, -1, labels)
    flipped = accuracy_doubts.flip(labels, truth, 3, others, 1)
    changed = np.flatnonzero(flipped != labels)
    assert len(changed) == round(0.05 * 225)
    assert (labels[changed] == truth[changed]).all()
    assert set(flipped[changed]) == {0, 1, 2}
    if others is not None:
        assert (flipped[changed] == others[labels[changed]]).all()


def test_a_list_is_scored_by_what_it_finds():
    is_wrong = np.arange(100) < 5
    quality = np.where(np.arange(100) < 3, 0.0, np.arange(100) / 100 + 0.1)
    quality[3:5] = 2, 3
    found = accuracy_doubts.found_by_list(quality, is_wrong)
    assert found == pytest.approx([0.6, 1, 1, 0.6, 0.6, (3 + 4 / 99 + 5 / 100) / 5])


def test_the_estimate_of_a_list_is_what_perfect_and_random_models_find():
    lengths = np.array(accuracy_doubts.LIST_LENGTHS)
    labels = np.arange(2000) % 2
    perfect = np.where(labels[:, None] == [0, 1], 0.9, 0.1)
    found = accuracy_doubts.estimate_list(labels, perfect)
    np.testing.assert_allclose(found, np.minimum(lengths / 0.05, 1), atol=0.011)
    chance = np.repeat(np.linspace(0.01, 0.99, 1000), 2)
    found = accuracy_doubts.estimate_list(labels, np.stack([chance, 1 - chance], 1))
    np.testing.assert_allclose(found, lengths, atol=0.0011)
    assert np.isnan(accuracy_doubts.estimate_list(labels * 0, np.ones((2000, 1)))).all()
