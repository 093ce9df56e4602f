# From the dataset to trained models and their scores.


rule split:
    message:
        "Divide the labelled parcels into {settings.split.folds} folds."
    input:
        packed=PACKED,
        labels=lambda wildcards: refuse_unlabelled(settings) or LABELS,
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
        start=without_braces(START),
    output:
        # The model's files are not outputs, because Snakemake deletes outputs when a job starts and
        # when it fails. A failed training must not delete the earlier model.
        touch(paths.trained("{fold}")),
    params:
        settings=settings_of("train"),
        record=lambda wildcards: paths.record(f"train/Fold_{wildcards.fold}"),
        dataset=paths.dataset.root,
        folder=lambda wildcards: paths.fold(wildcards.fold),
        # Not an output, because Snakemake would delete it before a killed training continues.
        state=lambda wildcards: paths.training_state(wildcards.fold),
        tensorboard=lambda wildcards: paths.tensorboard(wildcards.fold),
        unwatched=verbatim(states_of_others(START)),
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


rule calibrate:
    message:
        "Predict every labelled parcel by the model that was not trained on it, and fit temperatures."
    input:
        packed=PACKED,
        dataset=[DATASET, LABELS],
        folds=rules.split.output,
        models=expand(rules.train.output, fold=FOLDS),
    output:
        out_of_fold=paths.out_of_fold,
        temperatures=expand(paths.calibration("{fold}"), fold=FOLDS),
    params:
        settings=settings_of("calibrate"),
        record=paths.record("calibrate"),
        # If every training failed with new settings, the old outputs of train are still there. This
        # parameter makes the rule run again.
        trained=settings_of("train"),
        dataset=paths.dataset.root,
        models=paths.models,
    threads: cores
    resources:
        mem_mb=4000,
        gpu=gpus,
    log:
        paths.log("calibrate"),
    benchmark:
        paths.benchmark("calibrate")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise calibrate --settings {params.settings:q} --record {params.record:q}"
        " --dataset {params.dataset:q} --folds {input.folds:q} --models {params.models:q}"
        " --threads {threads} --log {log:q}"


rule evaluate:
    message:
        "Score the model and the baselines on the test parcels of every fold."
    input:
        packed=PACKED,
        dataset=[DATASET, LABELS, NAMES],
        folds=rules.split.output,
        predicted=rules.calibrate.output,
    output:
        metrics=expand(paths.fold("{fold}") / "test_metrics.json", fold=FOLDS),
        matrices=expand(paths.fold("{fold}") / "conf_mat.pkl", fold=FOLDS),
        overall=paths.overall,
        per_class=[paths.per_class, paths.per_class.with_suffix(".csv")],
        baselines=paths.baselines,
        spread=paths.spread,
        scores=paths.scores,
        calibration=paths.calibration_errors,
        sets=paths.prediction_sets,
    params:
        settings=settings_of("evaluate"),
        record=paths.record("evaluate"),
        dataset=paths.dataset.root,
        models=paths.models,
    threads: cores
    resources:
        mem_mb=4000,
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
