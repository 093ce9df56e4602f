# From Sentinel-2 imagery and a parcel register to a crop class for every parcel.
#
#     snakemake --cores 4 [dataset | models | predictions | report] --configfile configs/mine.yaml
#
# Every rule is one call of `python -m pipeline <stage>`; `snakemake -p` prints the calls.

import sys
from pathlib import Path
from shlex import quote

sys.path.insert(0, workflow.basedir)

from pipeline.config import for_stage, load, write_resolved
from pipeline.inputs import check_inputs, has_gpu, weights
from pipeline.paths import RunPaths
from pipeline.settings import SettingsError
from pipeline.summary import summary


configfile: Path(workflow.basedir) / "configs" / "default.yaml"


try:
    settings = load(config)
    check_inputs(settings)
except SettingsError as error:
    sys.exit(f"\n{error}")
paths = RunPaths(Path("results") / settings.run)
write_resolved(settings, paths)

FOLDS = range(1, settings.split.folds + 1)
TRAINED = settings.predict.weights is None
# Without a register there are no outlines to put on a map: the predictions are a table.
LAYER = [] if settings.dataset.path else [paths.predictions, paths.fiboa]
PREDICTIONS = [*LAYER, *multiext(str(paths.predictions.with_suffix("")), ".csv", ".parquet")]
# Snakemake does not miss what only later rules read: the targets name the tables themselves.
TABLES = [paths.ledger, paths.classes] if settings.dataset.path else paths.tables
GPUS = int(settings.train.device != "cpu" and has_gpu())

shell.prefix(f"set -euo pipefail; export PYTHONPATH={workflow.basedir}; ")


wildcard_constraints:
    acquisition="[^/]+",
    fold="[0-9]+",
    tile="[^/]+",


localrules:
    all,
    dataset,
    models,
    predictions,


onsuccess:
    print(summary(paths))


rule all:
    default_target: True
    input:
        TABLES,
        PREDICTIONS,
        paths.report,


# What comes before the folds: imagery and parcels become a Pixel-Set dataset, or one is there.
include: "rules/adoption.smk" if settings.dataset.path else "rules/preparation.smk"
include: "rules/packing.smk"


rule split:
    message:
        "Divide the labelled parcels into {settings.split.folds} folds."
    input:
        dataset=paths.dataset.assembled,
        positions=paths.dataset.positions if settings.split.by == "block" else [],
    output:
        paths.folds,
    params:
        config=paths.config,
        settings=for_stage(settings, "split"),
        dataset=paths.dataset.root,
    resources:
        mem_mb=1000,
    log:
        paths.log("split"),
    benchmark:
        paths.benchmark("split")
    conda:
        "environment.yml"
    shell:
        "python -m pipeline split --config {params.config} --dataset {params.dataset}"
        " --folds {output} --log {log}"


rule train:
    message:
        "Train fold {wildcards.fold}."
    input:
        dataset=DATASET,
        folds=rules.split.output,
    output:
        model=paths.fold("{fold}") / "model.pth.tar",
        portable=paths.fold("{fold}") / "model.safetensors",
        metadata=paths.fold("{fold}") / "model.json",
        trainlog=paths.fold("{fold}") / "trainlog.json",
    params:
        config=paths.config,
        settings=for_stage(settings, "train"),
        dataset=paths.dataset.root,
        folder=lambda wildcards: paths.fold(wildcards.fold),
        # No outputs: Snakemake would remove them before a killed training goes on.
        state=lambda wildcards: paths.training_state(wildcards.fold),
        tensorboard=lambda wildcards: paths.tensorboard(wildcards.fold),
    threads: max(1, workflow.cores // len(FOLDS))
    resources:
        mem_mb=4000,
        gpu=GPUS,
    log:
        paths.log("train/Fold_{fold}"),
    benchmark:
        paths.benchmark("train/Fold_{fold}")
    conda:
        "environment.yml"
    shell:
        "python -m pipeline train --config {params.config} --dataset {params.dataset}"
        " --folds {input.folds} --fold {wildcards.fold} --model {params.folder}"
        " --state {params.state} --tensorboard {params.tensorboard} --threads {threads} --log {log}"


rule evaluate:
    message:
        "Score every fold on its test parcels, beside the baselines."
    input:
        dataset=DATASET,
        folds=rules.split.output,
        models=expand(rules.train.output.model, fold=FOLDS),
    output:
        metrics=expand(paths.fold("{fold}") / "test_metrics.json", fold=FOLDS),
        matrices=expand(paths.fold("{fold}") / "conf_mat.pkl", fold=FOLDS),
        overall=paths.overall,
        per_class=paths.per_class,
        baselines=paths.baselines,
        spread=paths.spread,
        scores=paths.scores,
    params:
        config=paths.config,
        settings=for_stage(settings, "evaluate"),
        dataset=paths.dataset.root,
        models=paths.models,
    threads: workflow.cores
    resources:
        mem_mb=4000,
    log:
        paths.log("evaluate"),
    benchmark:
        paths.benchmark("evaluate")
    conda:
        "environment.yml"
    shell:
        "python -m pipeline evaluate --config {params.config} --dataset {params.dataset}"
        " --folds {input.folds} --models {params.models} --threads {threads} --log {log}"


rule models:
    message:
        "The models and their scores are in {paths.models}."
    input:
        TABLES,
        rules.evaluate.output,


rule predict:
    message:
        "Predict a class for every usable parcel."
    input:
        dataset=DATASET,
        models=(
            expand(rules.train.output.model, fold=FOLDS)
            if TRAINED
            else weights(settings.predict.weights)
        ),
        folds=rules.split.output if TRAINED else [],
        ledger=paths.ledger,
        register=settings.parcels.path or [],
    output:
        PREDICTIONS,
    params:
        config=paths.config,
        settings=for_stage(settings, "predict"),
        dataset=paths.dataset.root,
        models=settings.predict.weights or paths.models,
        folds=f"--folds {paths.folds}" if TRAINED else "",
        register=f"--register {quote(str(settings.parcels.path))}" * bool(LAYER),
        predictions=paths.predictions,
    threads: workflow.cores
    resources:
        mem_mb=4000,
        gpu=GPUS,
    log:
        paths.log("predict"),
    benchmark:
        paths.benchmark("predict")
    conda:
        "environment.yml"
    shell:
        "python -m pipeline predict --config {params.config} --dataset {params.dataset}"
        " --models {params.models:q} {params.folds} --ledger {input.ledger} {params.register}"
        " --predictions {params.predictions} --threads {threads} --log {log}"


rule predictions:
    message:
        "The predictions are in {paths.predictions.parent}."
    input:
        TABLES,
        rules.predict.output,


rule report:
    message:
        "Write the report."
    input:
        ancient([] if settings.dataset.path else [paths.acquisitions]),
        ledger=paths.ledger,
        classes=paths.classes,
        dataset=DATASET,
        models=rules.evaluate.output if TRAINED else [],
        predictions=rules.predict.output,
    output:
        paths.report,
    params:
        settings=for_stage(settings, "report"),
        run=paths.root,
    resources:
        mem_mb=2000,
    log:
        paths.log("report"),
    benchmark:
        paths.benchmark("report")
    conda:
        "environment.yml"
    shell:
        "python -m pipeline report --run {params.run} --report {output} --log {log}"
