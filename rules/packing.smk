# From the arrays of the dataset, a parcel a file, to the one file that training and prediction read.

from pipeline.inputs import is_masked


rule pack:
    message:
        "Put the arrays of the dataset into one file."
    input:
        ASSEMBLED,
    output:
        pixels=paths.dataset.packed_pixels,
        valid=paths.dataset.packed_valid if is_masked(settings) else [],
    params:
        config=paths.config,
        settings=for_stage(settings, "pack"),
        dataset=paths.dataset.root,
    threads: 2
    resources:
        mem_mb=1000 + settings.assemble.memory_mb,
    log:
        paths.log("pack"),
    benchmark:
        paths.benchmark("pack")
    conda:
        "../environment.yml"
    shell:
        "python -m pipeline pack --config {params.config} --dataset {params.dataset}"
        " --threads {threads} --log {log}"


# An existing dataset may bring its own.
if not (settings.dataset.path and given.given_normalisation):

    rule normalise:
        message:
            "Compute the means and standard deviations of the dataset."
        input:
            rules.pack.output,
        output:
            paths.dataset.normalisation,
        params:
            config=paths.config,
            settings=for_stage(settings, "normalise"),
            dataset=paths.dataset.root,
        resources:
            mem_mb=1000,
        log:
            paths.log("normalise"),
        benchmark:
            paths.benchmark("normalise")
        conda:
            "../environment.yml"
        shell:
            "python -m pipeline normalise --config {params.config} --dataset {params.dataset}"
            " --normalisation {output} --log {log}"

    DATASET.append(rules.normalise.output)


DATASET.append(rules.pack.output)


rule dataset:
    message:
        "The Pixel-Set dataset is in {paths.dataset.root}."
    input:
        [] if settings.dataset.path else TABLES,
        DATASET,
