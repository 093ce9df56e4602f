# From Sentinel-2 imagery and a parcel register to a crop class for every parcel.
#
#     snakemake --cores 4 [dataset | models | predictions | report] --configfile configs/mine.yaml
#
# Every rule is one call of `python -m pipeline <stage>`; `snakemake -p` prints the calls.

import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)

from pipeline.acquisition_table import read_used
from pipeline.config import (
    SettingsError,
    check_inputs,
    for_stage,
    has_gpu,
    load,
    watched,
    write_resolved,
)
from pipeline.paths import RunPaths
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
GPUS = int(settings.train.device != "cpu" and has_gpu())

shell.prefix(f"set -euo pipefail; export PYTHONPATH={workflow.basedir}; ")


def used(wildcards):
    """Acquisitions that the index found and uses: {id: row}."""
    return read_used(Path(checkpoints.index.get().output.acquisitions))


wildcard_constraints:
    acquisition="[^/]+",
    fold="[0-9]+",


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
        # Snakemake does not miss what only later rules read: a table that is gone is named here.
        paths.tables,
        paths.predictions,
        paths.report,


if settings.simulate:

    rule simulate:
        message:
            "Write the simulated raw scene: products and register."
        output:
            imagery=directory(settings.imagery.path),
            register=settings.parcels.path,
        params:
            config=paths.config,
            settings=for_stage(settings, "simulate"),
        log:
            paths.log("simulate"),
        benchmark:
            paths.benchmark("simulate")
        conda:
            "environment.yml"
        shell:
            "python -m pipeline simulate --config {params.config} --imagery {output.imagery:q}"
            " --register {output.register:q} --log {log}"


checkpoint index:
    message:
        "List the acquisitions of {params.imagery} and say which are used."
    input:
        settings.imagery.path if settings.simulate else watched(settings.imagery.path),
    output:
        acquisitions=paths.acquisitions,
        grids=paths.grids,
    params:
        imagery=settings.imagery.path,
        config=paths.config,
        settings=for_stage(settings, "index"),
    log:
        paths.log("index"),
    benchmark:
        paths.benchmark("index")
    conda:
        "environment.yml"
    shell:
        "python -m pipeline index --config {params.config} --imagery {params.imagery:q}"
        " --acquisitions {output.acquisitions} --grids {output.grids} --log {log}"


rule clean:
    message:
        "Check and mend the parcels of {input.register}; account for every one."
    input:
        # Ancient, as every new acquisition rewrites it; extract refuses parcels of another grid.
        grids=ancient(paths.grids),
        register=settings.parcels.path,
    output:
        ledger=paths.ledger,
        parcels=paths.parcels,
        classes=paths.classes,
    params:
        config=paths.config,
        settings=for_stage(settings, "clean"),
    log:
        paths.log("clean"),
    benchmark:
        paths.benchmark("clean")
    conda:
        "environment.yml"
    shell:
        "python -m pipeline clean --config {params.config} --register {input.register:q}"
        " --grids {input.grids} --ledger {output.ledger} --parcels {output.parcels}"
        " --classes {output.classes} --log {log}"


rule rasterise:
    message:
        "Index the pixels of the accepted parcels."
    input:
        parcels=rules.clean.output.parcels,
        grids=ancient(paths.grids),
    output:
        pixel_index=paths.pixel_index,
        label_image=paths.label_image,
    params:
        config=paths.config,
        settings=for_stage(settings, "rasterise"),
    log:
        paths.log("rasterise"),
    benchmark:
        paths.benchmark("rasterise")
    conda:
        "environment.yml"
    shell:
        "python -m pipeline rasterise --config {params.config} --parcels {input.parcels}"
        " --grids {input.grids} --pixel-index {output.pixel_index}"
        " --label-image {output.label_image} --log {log}"


rule extract:
    message:
        "Read the parcels' pixels of {wildcards.acquisition}."
    input:
        product=lambda wildcards: used(wildcards)[wildcards.acquisition].product,
        pixel_index=rules.rasterise.output.pixel_index,
    output:
        pixels=paths.extracted("{acquisition}"),
        valid=paths.extracted_valid("{acquisition}"),
    params:
        config=paths.config,
        settings=for_stage(settings, "extract"),
    log:
        paths.log("extract/{acquisition}"),
    benchmark:
        paths.benchmark("extract/{acquisition}")
    conda:
        "environment.yml"
    shell:
        "python -m pipeline extract --config {params.config} --product {input.product:q}"
        " --acquisition {wildcards.acquisition} --pixel-index {input.pixel_index}"
        " --pixels {output.pixels} --valid {output.valid} --threads {threads} --log {log}"


rule assemble:
    message:
        "Join the acquisitions into the Pixel-Set dataset."
    input:
        pixels=lambda wildcards: [paths.extracted(a) for a in used(wildcards)],
        valid=lambda wildcards: [paths.extracted_valid(a) for a in used(wildcards)],
        acquisitions=ancient(paths.acquisitions),
        pixel_index=rules.rasterise.output.pixel_index,
        parcels=rules.clean.output.parcels,
        classes=rules.clean.output.classes,
    output:
        data=directory(paths.dataset.pixels),
        valid=directory(paths.dataset.valid),
        meta=paths.dataset.assembled,
    params:
        config=paths.config,
        settings=for_stage(settings, "assemble"),
        extracted=paths.extractions,
        dataset=paths.dataset.root,
    threads: 2
    log:
        paths.log("assemble"),
    benchmark:
        paths.benchmark("assemble")
    conda:
        "environment.yml"
    shell:
        "python -m pipeline assemble --config {params.config} --acquisitions {input.acquisitions}"
        " --extracted {params.extracted}"
        " --pixel-index {input.pixel_index} --parcels {input.parcels} --classes {input.classes}"
        " --dataset {params.dataset} --threads {threads} --log {log}"


rule normalise:
    message:
        "Compute the means and standard deviations of the dataset."
    input:
        rules.assemble.output,
    output:
        paths.dataset.normalisation,
    params:
        config=paths.config,
        settings=for_stage(settings, "normalise"),
        dataset=paths.dataset.root,
    log:
        paths.log("normalise"),
    benchmark:
        paths.benchmark("normalise")
    conda:
        "environment.yml"
    shell:
        "python -m pipeline normalise --config {params.config} --dataset {params.dataset}"
        " --normalisation {output} --log {log}"


rule features:
    message:
        "Compute the geometric features of the parcels."
    input:
        parcels=rules.clean.output.parcels,
        pixel_index=rules.rasterise.output.pixel_index,
    output:
        features=paths.dataset.features,
        positions=paths.dataset.positions,
    log:
        paths.log("features"),
    benchmark:
        paths.benchmark("features")
    conda:
        "environment.yml"
    shell:
        "python -m pipeline features --parcels {input.parcels} --pixel-index {input.pixel_index}"
        " --features {output.features} --positions {output.positions} --log {log}"


rule dataset:
    message:
        "The Pixel-Set dataset is in {paths.dataset.root}."
    input:
        paths.tables,
        rules.assemble.output,
        rules.normalise.output,
        rules.features.output,


rule split:
    message:
        "Divide the labelled parcels into {settings.split.folds} folds."
    input:
        dataset=rules.assemble.output.meta,
        positions=rules.features.output.positions,
    output:
        paths.folds,
    params:
        config=paths.config,
        settings=for_stage(settings, "split"),
        dataset=paths.dataset.root,
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
        dataset=[rules.assemble.output, rules.normalise.output, rules.features.output],
        folds=rules.split.output,
    output:
        model=paths.fold("{fold}") / "model.pth.tar",
        metadata=paths.fold("{fold}") / "model.json",
        trainlog=paths.fold("{fold}") / "trainlog.json",
    params:
        config=paths.config,
        settings=for_stage(settings, "train"),
        dataset=paths.dataset.root,
        folder=lambda wildcards: paths.fold(wildcards.fold),
    threads: max(1, workflow.cores // len(FOLDS))
    resources:
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
        " --threads {threads} --log {log}"


rule evaluate:
    message:
        "Score every fold on its test parcels, beside the baselines."
    input:
        dataset=[rules.assemble.output, rules.normalise.output, rules.features.output],
        folds=rules.split.output,
        models=expand(rules.train.output.model, fold=FOLDS),
    output:
        metrics=expand(paths.fold("{fold}") / "test_metrics.json", fold=FOLDS),
        matrices=expand(paths.fold("{fold}") / "conf_mat.pkl", fold=FOLDS),
        overall=paths.overall,
        per_class=paths.per_class,
        baselines=paths.baselines,
    params:
        config=paths.config,
        settings=for_stage(settings, "evaluate"),
        dataset=paths.dataset.root,
        models=paths.models,
    threads: workflow.cores
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
        paths.tables,
        rules.evaluate.output,


rule predict:
    message:
        "Predict a class for every usable parcel."
    input:
        dataset=[rules.assemble.output, rules.normalise.output, rules.features.output],
        folds=rules.split.output,
        models=expand(rules.train.output.model, fold=FOLDS),
        ledger=rules.clean.output.ledger,
        register=settings.parcels.path,
    output:
        gpkg=paths.predictions,
        table=multiext(str(paths.predictions.with_suffix("")), ".csv", ".parquet"),
    params:
        config=paths.config,
        settings=for_stage(settings, "predict"),
        dataset=paths.dataset.root,
        models=paths.models,
    threads: workflow.cores
    resources:
        gpu=GPUS,
    log:
        paths.log("predict"),
    benchmark:
        paths.benchmark("predict")
    conda:
        "environment.yml"
    shell:
        "python -m pipeline predict --config {params.config} --dataset {params.dataset}"
        " --folds {input.folds} --models {params.models} --ledger {input.ledger}"
        " --register {input.register:q} --predictions {output.gpkg}"
        " --threads {threads} --log {log}"


rule predictions:
    message:
        "The predictions are in {paths.predictions}."
    input:
        paths.tables,
        rules.predict.output,


rule report:
    message:
        "Write the report."
    input:
        acquisitions=ancient(paths.acquisitions),
        ledger=rules.clean.output.ledger,
        classes=rules.clean.output.classes,
        dataset=[rules.assemble.output, rules.normalise.output, rules.features.output],
        models=rules.evaluate.output,
        predictions=rules.predict.output,
    output:
        paths.report,
    params:
        run=paths.root,
    log:
        paths.log("report"),
    benchmark:
        paths.benchmark("report")
    conda:
        "environment.yml"
    shell:
        "python -m pipeline report --run {params.run} --report {output} --log {log}"
