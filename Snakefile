# From Sentinel-2 imagery and a parcel register to a crop class for every parcel.
#
#     parcelwise run configs/mine.yaml [extractions | dataset | models | predictions | report | ...]
#     snakemake --cores 4 [dataset | ... | season] --configfile configs/mine.yaml
#
# Every rule calls `parcelwise <stage>`; `snakemake -p` prints the calls.

import sys
from pathlib import Path

try:
    from pipeline.workflow.inputs import has_gpu, named_inputs, weights
except ModuleNotFoundError:
    sys.exit(
        f"\nParcelwise is not installed for {sys.executable}. From {workflow.basedir}, run "
        "`python -m pip install --editable .`, or `make .venv/ready` and activate .venv."
    )
from pipeline.workflow.memory import memory
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.snakefile import (
    batch_of,
    division_settings,
    escaped,
    freeze,
    is_simulated,
    refuse_training,
    refuse_unlabelled,
    stage_settings,
    start,
    states_of_others,
    summary,
    verbatim,
    without_braces,
)

settings = start(
    workflow.overwrite_configfiles,
    workflow.config_settings.config,
    workflow.basedir,
    is_main=workflow.is_main_process,
    # With --retries, a job that failed is tried again, but not one that a mistake in the inputs ended.
    on_mistake=lambda: setattr(workflow.execution_settings, "retries", 0),
    cores=workflow.resource_settings.cores,
)
paths = RunPaths.of(settings.run)

FOLDS = range(1, settings.split.folds + 1)
TRAINED = settings.predict.weights is None
EXISTING_WEIGHTS = [] if TRAINED else weights(settings.predict.weights)
START = weights(settings.train.start) if settings.train.start else []
# What the settings name as inputs, without the imagery.
NAMED = named_inputs(settings)
# Without a register there are no outlines for a map and no areas: the predictions are only tables.
REGISTER = [] if settings.dataset.sources else [settings.parcels.path]
LAYER = [paths.predictions, paths.fiboa] if REGISTER else []
AREAS = [paths.areas, paths.areas.with_suffix(".csv"), paths.areas_account] if REGISTER else []
WORKLIST = (
    [
        *multiext(str(paths.to_check.with_suffix("")), ".parquet", ".csv"),
        *([paths.to_check.with_suffix(".gpkg")] if REGISTER else []),
        *multiext(str(paths.quality_sample.with_suffix("")), ".parquet", ".csv"),
        paths.worklist_account,
    ]
    if TRAINED
    else []
)
ATTENTION = [paths.attention, paths.attention_account] if settings.report.attention else []
SCORES = (
    [paths.doubts]
    if TRAINED
    else [paths.existing_scores, paths.existing_scores.with_suffix(".csv")]
)
PREDICTIONS = [
    *SCORES,
    *LAYER,
    paths.probabilities,
    *([paths.mean_probabilities] if TRAINED and REGISTER else []),
    *multiext(str(paths.predictions.with_suffix("")), ".csv", ".parquet"),
]
# The report shows the season of a run that was asked for it once, and then keeps it up to date.
shows_season = lambda: ("season" in workflow.dag_settings.targets or paths.season_summary.is_file())
season_files = lambda wildcards: paths.season_files if TRAINED and shows_season() else []
season_models = lambda wildcards: (
    [paths.season.trained(fold) for fold in FOLDS] if TRAINED and shows_season() else []
)
# As the season: written only if it is asked for, and then kept up to date.
SEN4CAP = [paths.sen4cap, *([paths.sen4cap.with_suffix(".gpkg")] if REGISTER else [])]
sen4cap_files = lambda wildcards: SEN4CAP if paths.sen4cap.is_file() else []
# The targets list these tables, because Snakemake does not check inputs of rules that need not run.
TABLES = [paths.ledger, paths.class_table] if settings.dataset.sources else paths.tables
# On a cluster, each job parses this file again on its node, which may have other cores and GPUs.
# Therefore a job requests --max-threads cores, and a GPU only if train.device is cuda.
on_cluster = lambda: workflow.remote_exec or workflow.non_local_exec
cores = lambda wildcards: (
    (workflow.resource_settings.max_threads or 4) if on_cluster() else workflow.cores
)
cores_of_fold = lambda wildcards: (
    cores(wildcards) if on_cluster() else max(1, workflow.cores // len(FOLDS))
)
# A job of a cluster runs as many extractions at a time as it requests cores. While this file is parsed,
# on_cluster() is not known.
if workflow.remote_exec or workflow.resource_settings.nodes is not None:
    workflow.register_resource("extractions", workflow.resource_settings.max_threads or 4)

device = settings.train.device
gpus = lambda wildcards: int(
    device.startswith("cuda") or (device == "auto" and has_gpu() and not on_cluster())
)

# With --use-conda, jobs run in the environment made by `conda env create -f environment.yml`. Without
# it, the rules refer to the file, because Snakemake would look for conda to resolve a name.
ENVIRONMENT = (
    "parcelwise"
    if "conda" in map(str, workflow.deployment_settings.deployment_method)
    else escaped(Path(workflow.basedir) / "environment.yml")
)
# A rule passes its stage only the settings of that stage. A change of them triggers a rerun.
settings_of = lambda stage: stage_settings(settings, stage)
# The categories of `snakemake --report`.
SIMULATED = " (SIMULATED)" if is_simulated(settings) else ""
INPUTS, SCORES_SHOWN, RESULTS, FIGURES = (
    f"{part}{SIMULATED}" for part in ("Inputs", "Scores", "Results", "Figures")
)


report: "rules/captions/workflow.rst"


resource_scopes:
    extractions="local",


wildcard_constraints:
    # The suffix of split.also, see rules/training.smk.
    also="(_[a-z]+)?",
    acquisition="[A-Za-z0-9_.-]+",
    fold="[0-9]+",
    tile="[A-Za-z0-9_.-]+",


localrules:
    all,
    dataset,
    extractions,
    models,
    predictions,
    season,


onstart:
    shell_paths = [workflow.basedir, Path.cwd(), *workflow.overwrite_configfiles]
    freeze(settings, shell_paths if on_cluster() else [], workflow)


onsuccess:
    paths.cluster_run.unlink(missing_ok=True)
    print(summary(paths, settings.split.also))


# The rules up to the dataset: from an existing one, or from imagery and parcels.
include: "rules/ingestion.smk" if settings.dataset.sources else "rules/preparation.smk"
include: "rules/dataset.smk"


rule inputs:
    message:
        "Record which inputs the run has."
    input:
        acquisitions=[] if settings.dataset.sources else paths.acquisitions,
        imagery=settings.imagery.path if settings.simulate else [],
        # The state below is that of the masks, too.
        named=without_braces(f for name in NAMED if name != "masks" for f in NAMED[name]),
    output:
        paths.inputs,
    params:
        named=verbatim([w for name, files in NAMED.items() for w in (f"--{name}", *files)]),
        unwatched=verbatim(states_of_others(f for files in NAMED.values() for f in files)),
        imagery=(
            []
            if settings.dataset.sources
            else ["--acquisitions", paths.acquisitions, "--items", paths.items]
        ),
        # A file that is replaced does not change the table of acquisitions.
        state=[] if settings.dataset.sources else IMAGERY_STATE,
    threads: 2
    resources:
        mem_mb=memory("inputs"),
    log:
        paths.log("inputs"),
    benchmark:
        paths.benchmark("inputs")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise inputs {params.imagery:q} {params.named:q}"
        " --inputs {output:q} --threads {threads} --log {log:q}"


# The models are trained, or they are existing ones.
if TRAINED:

    include: "rules/training.smk"

else:

    rule models:
        input:
            lambda wildcards: refuse_training(),

    rule season:
        input:
            lambda wildcards: refuse_training(),


JOBS.append("predict")


rule predict:
    message:
        "Predict a class for every usable parcel."
    input:
        packed=PACKED,
        dataset=[DATASET, LABELS, NAMES],
        models=(MODELS if TRAINED else without_braces(EXISTING_WEIGHTS)),
        folds=paths.folds if TRAINED else [],
        predicted=CALIBRATED if TRAINED else [],
        ledger=paths.ledger,
        register=without_braces(REGISTER),
        cleaned=[paths.register] if REGISTER else [],
        # Ancient: an acquisition that is not used does not repeat the predictions.
        index=ancient([paths.grids, paths.acquisitions] if REGISTER else []),
    output:
        PREDICTIONS,
    params:
        settings=settings_of("predict"),
        record=paths.record("predict"),
        trained=settings_of("train") if TRAINED else [],  # as in calibrate
        dataset=paths.dataset.root,
        models=settings.predict.weights or paths.models,
        folds=(
            ["--folds", paths.folds, "--doubts", paths.doubts]
            if TRAINED
            else ["--scores", paths.existing_scores]
        ),
        register=verbatim(["--register", *REGISTER] if REGISTER else []),
        tables=(
            [
                "--cleaned",
                paths.register,
                "--grids",
                paths.grids,
                "--acquisitions",
                paths.acquisitions,
            ]
            if REGISTER
            else []
        ),
        unwatched=verbatim(states_of_others([*REGISTER, *EXISTING_WEIGHTS])),
        predictions=paths.predictions,
    threads: cores
    resources:
        mem_mb=memory("predict", paths.dataset.labels),
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
        " {params.tables:q} --predictions {params.predictions:q} --threads {threads} --log {log:q}"


if REGISTER:
    JOBS.append("areas")

    include: "rules/areas.smk"


if TRAINED:
    JOBS.append("worklist")

    include: "rules/worklist.smk"


# Not on the way to the predictions: only the report and the whole run need it.
if ATTENTION:
    JOBS.append("explain")

    include: "rules/explain.smk"


rule sen4cap:
    message:
        "Write the predictions in the columns of Sen4CAP: {paths.sen4cap}."
    input:
        rules.predict.output,
    output:
        SEN4CAP,
    params:
        predictions=paths.predictions.with_suffix(".parquet"),
        outlines=["--outlines", paths.predictions] if REGISTER else [],
        sen4cap=paths.sen4cap,
    resources:
        mem_mb=memory("sen4cap", paths.dataset.labels),
    log:
        paths.log("sen4cap"),
    benchmark:
        paths.benchmark("sen4cap")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise sen4cap --predictions {params.predictions:q} {params.outlines:q}"
        " --sen4cap {params.sen4cap:q} --log {log:q}"


rule predictions:
    message:
        "The predictions are in {paths.predictions.parent}."
    input:
        TABLES,
        rules.predict.output,
        AREAS,
        WORKLIST,
        sen4cap_files,


rule report:
    message:
        "Write the report."
    input:
        ancient([] if settings.dataset.sources else [paths.acquisitions]),
        inputs=rules.inputs.output,
        ledger=paths.ledger,
        classes=paths.class_table,
        packed=PACKED,
        dataset=[DATASET, LABELS, NAMES],
        models=[EVALUATED, VARIOGRAM] if TRAINED else [],
        season=season_files,
        predictions=rules.predict.output,
        areas=AREAS,
        worklist=WORKLIST,
        attention=ATTENTION,
    output:
        report=report(paths.report, caption="rules/captions/report.rst", category=RESULTS),
        figures=report(
            directory(paths.figures),
            patterns=["{section}/{figure}.svg"],
            caption="rules/captions/figures.rst",
            category=FIGURES,
            subcategory="{section}",
            labels={"figure": "{figure}"},
        ),
        map=[] if settings.dataset.sources else paths.map_files,
        config=paths.config,
    params:
        settings=settings_of("report"),
        records=[paths.record(job) for job in JOBS],
        run=paths.root,
    resources:
        mem_mb=memory("report", paths.dataset.labels),
    log:
        paths.log("report"),
    benchmark:
        paths.benchmark("report")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise report --settings {params.settings:q} --records {params.records:q}"
        " --run {params.run:q} --report {output.report:q} --log {log:q}"


rule provenance:
    message:
        "Record what the run was made from and with."
    input:
        inputs=rules.inputs.output,
        results=[TABLES, EVALUATED, CARD] if TRAINED else TABLES,
        predictions=rules.predict.output,
        areas=AREAS,
        worklist=WORKLIST,
        sen4cap=sen4cap_files,
        report=rules.report.output,
    output:
        paths.provenance,
    params:
        records=[paths.record(job) for job in JOBS],
        run=paths.root,
    threads: cores
    resources:
        mem_mb=memory("provenance"),
    log:
        paths.log("provenance"),
    benchmark:
        paths.benchmark("provenance")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise provenance --run {params.run:q} --inputs {input.inputs:q}"
        " --records {params.records:q} --provenance {output:q} --threads {threads} --log {log:q}"


# Snakemake does not notice that the output of a killed job is missing if what follows from it is up
# to date. Therefore all files that a user keeps are listed.
rule all:
    default_target: True
    input:
        rules.dataset.input,
        paths.inputs,
        [paths.folds, VARIOGRAM, MODELS, CALIBRATED, EVALUATED, CARD] if TRAINED else [],
        PREDICTIONS,
        AREAS,
        WORKLIST,
        ATTENTION,
        season_models,
        sen4cap_files,
        paths.report,
        paths.provenance,
