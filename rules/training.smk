# From the dataset to trained models and their scores.

# With split.also, the rules from split to evaluate run for both divisions of the parcels: {also} is
# "" for split.by, and, such as, "_block" for split.also. The predictions use those of split.by.
ALSO = "{also}" if settings.split.also else ""
WAYS = {"": settings.split.by} | (
    {f"_{settings.split.also}": settings.split.also} if settings.split.also else {}
)
divided = RunPaths(paths.root, ALSO)
also = lambda wildcards: wildcards.get("also", "")
way = lambda wildcards: WAYS[also(wildcards)]
divided_into = lambda wildcards: f"Folds: {way(wildcards)}"
of_division = lambda wildcards: RunPaths(paths.root, also(wildcards))
# The register contains the groups; an existing dataset contains its own.
GROUPS = [] if settings.dataset.sources else paths.register
# Without positions, it cannot be told how far parcels are alike.
VARIOGRAM = [paths.variogram] if not settings.dataset.sources or "positions" in OPTIONAL else []
AUTO = settings.split.block_m == "auto"


rule variogram:
    message:
        "Measure how far parcels are alike."
    input:
        packed=PACKED,
        labels=lambda wildcards: refuse_unlabelled(settings) or LABELS,
        positions=paths.dataset.positions,
    output:
        paths.variogram,
    params:
        settings=settings_of("variogram"),
        record=paths.record("variogram"),
        dataset=paths.dataset.root,
    resources:
        mem_mb=memory("variogram"),
    log:
        paths.log("variogram"),
    benchmark:
        paths.benchmark("variogram")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise variogram --settings {params.settings:q} --record {params.record:q}"
        " --dataset {params.dataset:q}"
        " --variogram {output:q} --log {log:q}"


rule split:
    message:
        "Divide the labelled parcels into {settings.split.folds} folds: {output}."
    input:
        packed=PACKED,
        labels=lambda wildcards: refuse_unlabelled(settings) or LABELS,
        positions=lambda wildcards: (paths.dataset.positions if way(wildcards) == "block" else []),
        variogram=lambda wildcards: (paths.variogram if way(wildcards) == "block" and AUTO else []),
        groups=lambda wildcards: GROUPS if way(wildcards) == "group" else [],
    output:
        divided.folds,
    params:
        settings=lambda wildcards: division_settings(settings, way(wildcards)),
        record=lambda wildcards: paths.record(f"split{also(wildcards)}"),
        dataset=paths.dataset.root,
        by=lambda wildcards: ["--by", way(wildcards)] if also(wildcards) else [],
        others=lambda wildcards, input: [
            *(["--register", input.groups] if input.groups else []),
            *(["--variogram", input.variogram] if input.variogram else []),
        ],
    resources:
        mem_mb=memory("split", paths.dataset.labels),
    log:
        paths.log(f"split{ALSO}"),
    benchmark:
        paths.benchmark(f"split{ALSO}")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise split --settings {params.settings:q} --record {params.record:q}"
        " --dataset {params.dataset:q} {params.by:q} {params.others:q}"
        " --folds {output:q} --log {log:q}"


rule train:
    message:
        "Train fold {wildcards.fold}: {params.folder}."
    input:
        packed=PACKED,
        dataset=DATASET,
        labels=LABELS,
        folds=rules.split.output,
        start=without_braces(START),
    output:
        # The model's files are not outputs, because Snakemake deletes outputs when a job starts and
        # when it fails. A failed training must not delete the earlier model.
        touch(divided.trained("{fold}")),
    params:
        settings=settings_of("train"),
        record=lambda wildcards: paths.record(f"train{also(wildcards)}/Fold_{wildcards.fold}"),
        dataset=paths.dataset.root,
        folder=lambda wildcards: of_division(wildcards).fold(wildcards.fold),
        # Not an output, because Snakemake would delete it before a killed training continues.
        state=lambda wildcards: of_division(wildcards).training_state(wildcards.fold),
        tensorboard=lambda wildcards: of_division(wildcards).tensorboard(wildcards.fold),
        ends="last",
        unwatched=verbatim(states_of_others(START)),
    threads: cores_of_fold
    resources:
        mem_mb=memory("train", paths.dataset.labels),
        gpu=gpus,
    log:
        paths.log(f"train{ALSO}/Fold_{{fold}}"),
    benchmark:
        paths.benchmark(f"train{ALSO}/Fold_{{fold}}")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise train --settings {params.settings:q} --record {params.record:q}"
        " --dataset {params.dataset:q}"
        " --folds {input.folds:q} --fold {wildcards.fold:q} --model {params.folder:q}"
        " --state {params.state:q} --tensorboard {params.tensorboard:q} --ends {params.ends:q}"
        " --threads {threads} --log {log:q}"


rule calibrate:
    message:
        "Predict every labelled parcel by the model of {params.models} that was not trained on it, and fit temperatures."
    input:
        packed=PACKED,
        dataset=[DATASET, LABELS],
        folds=rules.split.output,
        models=expand(rules.train.output, fold=FOLDS, allow_missing=True),
    output:
        out_of_fold=divided.out_of_fold,
        temperatures=expand(divided.calibration("{fold}"), fold=FOLDS, allow_missing=True),
    params:
        settings=settings_of("calibrate"),
        record=lambda wildcards: paths.record(f"calibrate{also(wildcards)}"),
        # If every training failed with new settings, the old outputs of train are still there. This
        # parameter makes the rule run again.
        trained=settings_of("train"),
        dataset=paths.dataset.root,
        models=lambda wildcards: of_division(wildcards).models,
    threads: cores
    resources:
        mem_mb=memory("calibrate", paths.dataset.labels),
        gpu=gpus,
    log:
        paths.log(f"calibrate{ALSO}"),
    benchmark:
        paths.benchmark(f"calibrate{ALSO}")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise calibrate --settings {params.settings:q} --record {params.record:q}"
        " --dataset {params.dataset:q} --folds {input.folds:q} --models {params.models:q}"
        " --threads {threads} --log {log:q}"


rule evaluate:
    message:
        "Score the model of {params.models} and the baselines on the test parcels of every fold."
    input:
        packed=PACKED,
        dataset=[DATASET, LABELS, NAMES],
        folds=rules.split.output,
        predicted=rules.calibrate.output,
    output:
        metrics=expand(divided.fold("{fold}") / "test_metrics.json", fold=FOLDS, allow_missing=True),
        matrices=expand(divided.fold("{fold}") / "conf_mat.pkl", fold=FOLDS, allow_missing=True),
        overall=divided.overall,
        per_class=[
            divided.per_class,
            report(
                divided.per_class.with_suffix(".csv"),
                caption="captions/per_class.rst",
                category=SCORES_SHOWN,
                subcategory=divided_into,
            ),
        ],
        baselines=divided.baselines,
        spread=divided.spread,
        scores=report(
            divided.scores,
            caption="captions/scores.rst",
            category=SCORES_SHOWN,
            subcategory=divided_into,
        ),
        calibration=divided.calibration_errors,
        sets=divided.prediction_sets,
    params:
        settings=settings_of("evaluate"),
        record=lambda wildcards: paths.record(f"evaluate{also(wildcards)}"),
        dataset=paths.dataset.root,
        models=lambda wildcards: of_division(wildcards).models,
    threads: cores
    resources:
        mem_mb=memory("evaluate", paths.dataset.labels),
    log:
        paths.log(f"evaluate{ALSO}"),
    benchmark:
        paths.benchmark(f"evaluate{ALSO}")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise evaluate --settings {params.settings:q} --record {params.record:q}"
        " --dataset {params.dataset:q}"
        " --folds {input.folds:q} --models {params.models:q} --threads {threads} --log {log:q}"


# The scores of all divisions. Of split.by: the models and the out-of-fold predictions.
EVALUATED = expand(rules.evaluate.output, also=WAYS)
MODELS = expand(rules.train.output, fold=FOLDS, also="")
CALIBRATED = expand(rules.calibrate.output, also="")
# The jobs whose settings the report shows.
JOBS += ["variogram"] if VARIOGRAM else []
for one in WAYS:
    JOBS += [
        f"split{one}",
        *(f"train{one}/Fold_{fold}" for fold in FOLDS),
        f"calibrate{one}",
        f"evaluate{one}",
    ]


rule model_card:
    message:
        "Describe the models of {paths.models}."
    input:
        models=MODELS,
        evaluated=EVALUATED,
        variogram=VARIOGRAM,
    output:
        card=report(paths.model_card, caption="captions/model_card.rst", category=SCORES_SHOWN),
        item=paths.model_item,
    params:
        records=[paths.record(job) for job in JOBS],
        run=paths.root,
    resources:
        mem_mb=memory("model_card"),
    log:
        paths.log("model_card"),
    benchmark:
        paths.benchmark("model_card")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise model_card --run {params.run:q} --records {params.records:q}"
        " --card {output.card:q} --item {output.item:q} --log {log:q}"


CARD = [rules.model_card.output]

if settings.report.mlflow:

    rule mlflow:
        message:
            "Add the trainings and scores to {params.database} of MLflow."
        input:
            models=MODELS,
            evaluated=EVALUATED,
        output:
            paths.mlflow,
        params:
            records=[paths.record(job) for job in JOBS],
            run=paths.root,
            database=paths.mlflow_database,
        resources:
            mem_mb=memory("mlflow"),
        log:
            paths.log("mlflow"),
        benchmark:
            paths.benchmark("mlflow")
        conda:
            ENVIRONMENT
        shell:
            "parcelwise mlflow --run {params.run:q} --records {params.records:q}"
            " --database {params.database:q} --account {output:q} --log {log:q}"

    CARD.append(rules.mlflow.output)


rule models:
    message:
        "The models and their scores are in {paths.models}."
    input:
        TABLES,
        EVALUATED,
        CARD,


# The season: a second model in every fold, which learns from series that end on random dates.


use rule train as train_season with:
    message:
        "Train fold {wildcards.fold} on series that end on random dates."
    input:
        packed=PACKED,
        dataset=DATASET,
        labels=LABELS,
        folds=paths.folds,
        start=without_braces(START),
    output:
        touch(paths.season.trained("{fold}")),
    params:
        settings=settings_of("train"),
        record=lambda wildcards: paths.record(f"train_season/Fold_{wildcards.fold}"),
        dataset=paths.dataset.root,
        folder=lambda wildcards: paths.season.fold(wildcards.fold),
        state=lambda wildcards: paths.season.training_state(wildcards.fold),
        tensorboard=lambda wildcards: paths.season.tensorboard(wildcards.fold),
        ends="random",
        unwatched=verbatim(states_of_others(START)),
    log:
        paths.log("train_season/Fold_{fold}"),
    benchmark:
        paths.benchmark("train_season/Fold_{fold}")


rule evaluate_season:
    message:
        "Score the classes by the last date available."
    input:
        packed=PACKED,
        dataset=[DATASET, LABELS, NAMES],
        folds=paths.folds,
        models=expand(rules.train_season.output, fold=FOLDS),
    output:
        tables=[paths.season_accuracy, paths.season_parcels],
        accuracy=report(
            paths.season_accuracy.with_suffix(".csv"),
            caption="captions/season.rst",
            category=SCORES_SHOWN,
        ),
        parcels=paths.season_parcels.with_suffix(".csv"),
        summary=paths.season_summary,
    params:
        settings=settings_of("evaluate_season"),
        record=paths.record("evaluate_season"),
        trained=settings_of("train"),  # as in evaluate
        dataset=paths.dataset.root,
        models=paths.season.models,
        accuracy=paths.season_accuracy,
        parcels=paths.season_parcels,
        summary=paths.season_summary,
    threads: cores
    resources:
        mem_mb=memory("evaluate_season", paths.dataset.labels),
        gpu=gpus,
    log:
        paths.log("evaluate_season"),
    benchmark:
        paths.benchmark("evaluate_season")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise evaluate_season --settings {params.settings:q} --record {params.record:q}"
        " --dataset {params.dataset:q}"
        " --folds {input.folds:q} --models {params.models:q} --accuracy {params.accuracy:q}"
        " --parcels {params.parcels:q} --summary {params.summary:q}"
        " --threads {threads} --log {log:q}"


rule season:
    message:
        "How early the classes are known is in {paths.season.root} and in the report."
    input:
        paths.season_files,
        season_models,
        paths.report,
        paths.provenance,
