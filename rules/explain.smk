rule explain:
    message:
        "Measure on which dates the models look, and whether this explains their predictions."
    input:
        packed=PACKED,
        dataset=[DATASET, LABELS],
        models=(MODELS if TRAINED else without_braces(EXISTING_WEIGHTS)),
        folds=paths.folds if TRAINED else [],
        predicted=CALIBRATED if TRAINED else [],
        probabilities=paths.probabilities,
    output:
        attention=paths.attention,
        account=paths.attention_account,
    params:
        settings=settings_of("explain"),
        record=paths.record("explain"),
        trained=settings_of("train") if TRAINED else [],  # as in calibrate
        dataset=paths.dataset.root,
        models=settings.predict.weights or paths.models,
        folds=["--folds", paths.folds] if TRAINED else [],
        unwatched=verbatim(states_of_others(EXISTING_WEIGHTS)),
    threads: cores
    resources:
        mem_mb=memory("explain", paths.dataset.labels),
        gpu=gpus,
    log:
        paths.log("explain"),
    benchmark:
        paths.benchmark("explain")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise explain --settings {params.settings:q} --record {params.record:q}"
        " --dataset {params.dataset:q} --models {params.models:q} {params.folds:q}"
        " --probabilities {input.probabilities:q} --attention {output.attention:q}"
        " --account {output.account:q} --threads {threads} --log {log:q}"
