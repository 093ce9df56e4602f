# From Sentinel-2 imagery and a parcel register to a crop class for every parcel.
#
#     parcelwise run configs/mine.yaml [dataset | models | predictions | report]
#     snakemake --cores 4 [dataset | models | predictions | report] --configfile configs/mine.yaml
#
# Every rule is one call of `parcelwise <stage>`; `snakemake -p` prints the calls.

import sys
from pathlib import Path

try:
    from pipeline.workflow.inputs import has_gpu, weights
except ModuleNotFoundError:
    sys.exit(
        f"\nParcelwise is not installed for {sys.executable}. From {workflow.basedir}, run "
        "`python -m pip install --editable .`, or `make .venv/ready` and activate .venv."
    )
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.snakefile import (
    escaped,
    freeze,
    passed,
    start,
    states_of_others,
    summary,
    verbatim,
    without_braces,
)


configfile: Path(workflow.basedir) / "configs" / "default.yaml"


settings = start(config, workflow.basedir, is_main=workflow.is_main_process)
paths = RunPaths.of(settings.run)

FOLDS = range(1, settings.split.folds + 1)
TRAINED = settings.predict.weights is None
# Without a register there are no outlines to put on a map: the predictions are a table.
REGISTER = [] if settings.dataset.path else [settings.parcels.path]
LAYER = [paths.predictions, paths.fiboa] if REGISTER else []
PREDICTIONS = [*LAYER, *multiext(str(paths.predictions.with_suffix("")), ".csv", ".parquet")]
# Snakemake does not miss what only later rules read: the targets name the tables themselves.
TABLES = [paths.ledger, paths.class_table] if settings.dataset.path else paths.tables
# A cluster plans each job a second time on its node, whose cores and GPUs may differ from those here.
# There, a job asks for --max-threads cores, and for a GPU only if train.device is cuda.
on_cluster = lambda: workflow.remote_exec or workflow.non_local_exec
cores = lambda wildcards: (
    (workflow.resource_settings.max_threads or 4) if on_cluster() else workflow.cores
)
cores_of_fold = lambda wildcards: (
    cores(wildcards) if on_cluster() else max(1, workflow.cores // len(FOLDS))
)
device = settings.train.device
gpus = lambda wildcards: int(
    device.startswith("cuda") or (device == "auto" and has_gpu() and not on_cluster())
)

# With --use-conda, jobs run in the environment that `conda env create -f environment.yml` made. Without,
# its file is named, as Snakemake asks conda about every environment that is named by its name.
ENVIRONMENT = (
    "parcelwise"
    if "conda" in map(str, workflow.deployment_settings.deployment_method)
    else escaped(Path(workflow.basedir) / "environment.yml")
)
# A stage is passed its own settings: what it runs with, and what triggers its rerun.
settings_of = lambda stage: passed(settings, stage)


wildcard_constraints:
    acquisition="[A-Za-z0-9_.-]+",
    fold="[0-9]+",
    tile="[A-Za-z0-9_.-]+",


localrules:
    all,
    dataset,
    models,
    predictions,


onstart:
    shell_paths = [workflow.basedir, Path.cwd(), *workflow.overwrite_configfiles]
    freeze(settings, shell_paths if on_cluster() else [])


onsuccess:
    print(summary(paths))


rule all:
    default_target: True
    input:
        TABLES,
        PREDICTIONS,
        paths.report,


# What comes before the folds: imagery and parcels become a Pixel-Set dataset, or one is there.
include: "rules/ingestion.smk" if settings.dataset.path else "rules/preparation.smk"
include: "rules/dataset.smk"


if TRAINED:
    JOBS += ["split", *(f"train/Fold_{fold}" for fold in FOLDS), "evaluate"]
JOBS.append("predict")


rule split:
    message:
        "Divide the labelled parcels into {settings.split.folds} folds."
    input:
        packed=PACKED,
        labels=LABELS,
        positions=paths.dataset.positions if settings.split.by == "block" else [],
    output:
        paths.folds,
    params:
        settings=settings_of("split"),
        record=paths.record("split"),
        dataset=paths.dataset.root,
    resources:
        mem_mb=1000,
    log:
        paths.log("split"),
    benchmark:
        paths.benchmark("split")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise split --settings {params.settings:q} --record {params.record:q}"
        " --dataset {params.dataset:q}"
        " --folds {output:q} --log {log:q}"


rule train:
    message:
        "Train fold {wildcards.fold}."
    input:
        packed=PACKED,
        dataset=DATASET,
        labels=LABELS,
        folds=rules.split.output,
    output:
        # The model's files are not outputs: Snakemake removes outputs before a job starts and after
        # it fails, and a failed training must not cost the earlier model.
        touch(paths.trained("{fold}")),
    params:
        settings=settings_of("train"),
        record=lambda wildcards: paths.record(f"train/Fold_{wildcards.fold}"),
        dataset=paths.dataset.root,
        folder=lambda wildcards: paths.fold(wildcards.fold),
        # No outputs: Snakemake would remove them before a killed training goes on.
        state=lambda wildcards: paths.training_state(wildcards.fold),
        tensorboard=lambda wildcards: paths.tensorboard(wildcards.fold),
    threads: cores_of_fold
    resources:
        mem_mb=4000,
        gpu=gpus,
    log:
        paths.log("train/Fold_{fold}"),
    benchmark:
        paths.benchmark("train/Fold_{fold}")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise train --settings {params.settings:q} --record {params.record:q}"
        " --dataset {params.dataset:q}"
        " --folds {input.folds:q} --fold {wildcards.fold:q} --model {params.folder:q}"
        " --state {params.state:q} --tensorboard {params.tensorboard:q} --threads {threads} --log {log:q}"


rule evaluate:
    message:
        "Score every fold on its test parcels, beside the baselines."
    input:
        packed=PACKED,
        dataset=[DATASET, LABELS, NAMES],
        folds=rules.split.output,
        models=expand(rules.train.output, fold=FOLDS),
    output:
        metrics=expand(paths.fold("{fold}") / "test_metrics.json", fold=FOLDS),
        matrices=expand(paths.fold("{fold}") / "conf_mat.pkl", fold=FOLDS),
        overall=paths.overall,
        per_class=[paths.per_class, paths.per_class.with_suffix(".csv")],
        baselines=paths.baselines,
        spread=paths.spread,
        scores=paths.scores,
    params:
        settings=settings_of("evaluate"),
        record=paths.record("evaluate"),
        # Snakemake does not miss the output of a training that failed, as only this rule reads it.
        trained=settings_of("train"),
        dataset=paths.dataset.root,
        models=paths.models,
    threads: cores
    resources:
        mem_mb=4000,
        gpu=gpus,
    log:
        paths.log("evaluate"),
    benchmark:
        paths.benchmark("evaluate")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise evaluate --settings {params.settings:q} --record {params.record:q}"
        " --dataset {params.dataset:q}"
        " --folds {input.folds:q} --models {params.models:q} --threads {threads} --log {log:q}"


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
        packed=PACKED,
        dataset=[DATASET, LABELS, NAMES],
        models=(
            expand(rules.train.output, fold=FOLDS)
            if TRAINED
            else without_braces(weights(settings.predict.weights))
        ),
        folds=rules.split.output if TRAINED else [],
        ledger=paths.ledger,
        register=without_braces(REGISTER),
    output:
        PREDICTIONS,
    params:
        settings=settings_of("predict"),
        record=paths.record("predict"),
        trained=settings_of("train") if TRAINED else [],  # as in evaluate
        dataset=paths.dataset.root,
        models=settings.predict.weights or paths.models,
        folds=["--folds", paths.folds] if TRAINED else [],
        register=verbatim(["--register", *REGISTER] if REGISTER else []),
        unwatched=verbatim(
            states_of_others([*REGISTER, *([] if TRAINED else weights(settings.predict.weights))])
        ),
        predictions=paths.predictions,
    threads: cores
    resources:
        mem_mb=4000,
        gpu=gpus,
    log:
        paths.log("predict"),
    benchmark:
        paths.benchmark("predict")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise predict --settings {params.settings:q} --record {params.record:q}"
        " --dataset {params.dataset:q}"
        " --models {params.models:q} {params.folds:q} --ledger {input.ledger:q} {params.register:q}"
        " --predictions {params.predictions:q} --threads {threads} --log {log:q}"


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
        classes=paths.class_table,
        packed=PACKED,
        dataset=[DATASET, LABELS, NAMES],
        models=rules.evaluate.output if TRAINED else [],
        predictions=rules.predict.output,
    output:
        report=paths.report,
        config=paths.config,
    params:
        settings=settings_of("report"),
        records=[paths.record(job) for job in JOBS],
        run=paths.root,
    resources:
        mem_mb=2000,
    log:
        paths.log("report"),
    benchmark:
        paths.benchmark("report")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise report --settings {params.settings:q} --records {params.records:q}"
        " --run {params.run:q} --report {output.report:q} --log {log:q}"
