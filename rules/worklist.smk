rule worklist:
    message:
        "List the declarations to check, and draw a sample to assess the verdicts."
    input:
        predictions=rules.predict.output,
        parcels=paths.parcels if REGISTER else [],
        dataset=[DATASET, LABELS, NAMES],
    output:
        WORKLIST,
    params:
        settings=settings_of("worklist"),
        record=paths.record("worklist"),
        predictions=paths.predictions.with_suffix(".parquet"),
        probabilities=paths.probabilities,
        doubts=paths.doubts,
        outlines=["--parcels", paths.parcels] if REGISTER else [],
        dataset=paths.dataset.root,
        to_check=paths.to_check,
        quality_sample=paths.quality_sample,
        account=paths.worklist_account,
    resources:
        mem_mb=memory("worklist", paths.dataset.labels),
    log:
        paths.log("worklist"),
    benchmark:
        paths.benchmark("worklist")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise worklist --settings {params.settings:q} --record {params.record:q}"
        " --predictions {params.predictions:q} --probabilities {params.probabilities:q}"
        " --doubts {params.doubts:q} {params.outlines:q} --dataset {params.dataset:q}"
        " --to-check {params.to_check:q} --quality-sample {params.quality_sample:q}"
        " --account {params.account:q} --log {log:q}"
