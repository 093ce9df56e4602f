# From imagery and a parcel register to the Pixel-Set dataset.

import json
from functools import cache

from pipeline.workflow.acquisition_table import read_positions, read_tiles, read_used
from pipeline.workflow.inputs import imagery_state

# A digest of the files of the imagery. As inputs, thousands of files would slow Snakemake down.
IMAGERY_STATE = imagery_state(settings)
# The table of acquisitions, once index has written it. Thousands of jobs ask for it.
table = cache(lambda: Path(checkpoints.index.get().output.acquisitions))
# The acquisition of an extraction.
extracted = lambda wildcards: read_used(table())[wildcards.acquisition]
# Its pixel index, when the checkpoint is known to have run.
pixel_index_of = lambda wildcards: paths.pixel_index(
    read_used(Path(paths.acquisitions))[wildcards.acquisition].tile
)
# The acquisitions of a tile, in the order in which assemble merges them.
of_tile = lambda wildcards: read_tiles(table()).get(wildcards.tile, [])
# The batch of acquisitions that are extracted in one job of a cluster.
batch = lambda wildcards: batch_of(
    lambda: read_positions(Path(paths.acquisitions))[wildcards.acquisition],
    workflow.group_settings.group_components,
    workflow.parent_groupids,
)
# All tiles, and the paths of their packed pixels.
tiles = lambda wildcards: sorted(read_tiles(table()))
tile_folders = lambda wildcards: [paths.dataset.tile(t).root for t in tiles(wildcards)]
packed = lambda wildcards: [f for t in tiles(wildcards) for f in paths.dataset.tile(t).packed]

if settings.simulate:

    rule simulate:
        message:
            "Write the simulated raw scene: products and register."
        output:
            imagery=directory(settings.imagery.path),
            register=settings.parcels.path,
        params:
            settings=settings_of("simulate"),
            record=paths.record("simulate"),
        resources:
            mem_mb=memory("simulate"),
        log:
            paths.log("simulate"),
        benchmark:
            paths.benchmark("simulate")
        conda:
            ENVIRONMENT
        shell:
            "python -P -m demo --settings {params.settings:q} --record {params.record:q}"
            " --imagery {output.imagery:q}"
            " --register {output.register:q} --log {log:q}"


checkpoint index:
    message:
        "List the acquisitions of {params.imagery} and decide which are used."
    input:
        imagery=settings.imagery.path if settings.simulate else [],
        # A STAC search covers the bounds of the register.
        register=without_braces([settings.parcels.path] if settings.imagery.is_stac else []),
    output:
        acquisitions=paths.acquisitions,
        view=report(paths.acquisitions_view, caption="captions/acquisitions.rst", category=INPUTS),
        grids=paths.grids,
    params:
        imagery=verbatim(settings.imagery.path),
        state=IMAGERY_STATE,
        folder=paths.items,
        stac=verbatim(
            ["--source-items", paths.source_items, "--register", settings.parcels.path]
            if settings.imagery.is_stac
            else []
        ),
        settings=settings_of("index"),
        record=paths.record("index"),
        extracted=paths.of_extractions,
    threads: 4
    resources:
        mem_mb=memory("index"),
        # Not a parameter: the outputs do not depend on the weights, whose dates are compared here.
        weights=json.dumps(settings.predict.weights and str(settings.predict.weights)),
        # Nor do they depend on what is kept from one index to the next.
        cache=str(paths.index_cache),
    log:
        paths.log("index"),
    benchmark:
        paths.benchmark("index")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise index --settings {params.settings:q} --record {params.record:q}"
        " --imagery {params.imagery:q}"
        " --acquisitions {output.acquisitions:q} --table {output.view:q} --items {params.folder:q}"
        " --grids {output.grids:q} {params.stac:q} --weights {resources.weights:q}"
        " --cache {resources.cache:q} --extracted {params.extracted:q}"
        " --threads {threads} --log {log:q}"


rule clean:
    message:
        "Mend the parcels of {params.register}, place them on tiles, and check every row."
    input:
        # Ancient, because every new acquisition rewrites the file. Its content is a parameter.
        grids=ancient(paths.grids),
        register=without_braces([settings.parcels.path]),
    output:
        rows=paths.register,
        overlaps=paths.overlaps,
        parcels=directory(paths.parcels),
    params:
        settings=settings_of("clean"),
        record=paths.record("clean"),
        register=settings.parcels.path,
        unwatched=verbatim(states_of_others([settings.parcels.path])),
        grids=lambda wildcards: (
            paths.grids.read_text(errors="replace") if paths.grids.is_file() else ""
        ),
    resources:
        mem_mb=memory("clean", settings.parcels.path),
        # clean also checks the settings of label, so that an error ends the run before any pixel is
        # read. They are not parameters, because the outputs of clean do not depend on them.
        labels=settings_of("label")(None),
        names=json.dumps(settings.parcels.names and str(settings.parcels.names)),
    log:
        paths.log("clean"),
    benchmark:
        paths.benchmark("clean")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise clean --settings {params.settings:q} --record {params.record:q}"
        " --register {params.register:q}"
        " --grids {input.grids:q} --rows {output.rows:q} --overlaps {output.overlaps:q}"
        " --parcels {output.parcels:q} --labels {resources.labels:q} --names {resources.names:q}"
        " --log {log:q}"


rule rasterise:
    message:
        "Find the pixels of the parcels of tile {wildcards.tile}."
    input:
        parcels=rules.clean.output.parcels,
        grids=ancient(paths.grids),
    output:
        pixel_index=paths.pixel_index("{tile}"),
        counts=paths.pixel_counts("{tile}"),
        label_image=paths.label_image("{tile}"),
    params:
        settings=settings_of("rasterise"),
        record=paths.record("rasterise"),
    resources:
        mem_mb=memory("rasterise", lambda wildcards: paths.parcels / f"{wildcards.tile}.parquet"),
    log:
        paths.log("rasterise/{tile}"),
    benchmark:
        paths.benchmark("rasterise/{tile}")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise rasterise --settings {params.settings:q} --record {params.record:q}"
        " --parcels {input.parcels:q}"
        " --grids {input.grids:q} --tile {wildcards.tile:q} --pixel-index {output.pixel_index:q}"
        " --counts {output.counts:q} --label-image {output.label_image:q} --log {log:q}"


rule extract:
    message:
        "Read the parcels' pixels of {wildcards.acquisition}."
    input:
        # index writes this file only if the acquisition has changed.
        item=lambda wildcards: paths.item(extracted(wildcards).acquisition),
        pixel_index=lambda wildcards: paths.pixel_index(extracted(wildcards).tile),
    output:
        pixels=paths.extracted("{acquisition}"),
        valid=paths.extracted_valid("{acquisition}"),
        counts=paths.extraction_counts("{acquisition}"),
    params:
        settings=settings_of("extract"),
        record=paths.record("extract"),
    # On a Dask cluster, it does not need a core of this machine.
    threads: 0 if settings.dask.scheduler else 1
    resources:
        mem_mb=memory("extract", pixel_index_of),
        # Not parameters: when they change, what is extracted already stays.
        damaged=settings.imagery.damaged,
        scheduler=settings.dask.scheduler or "threads",
        # Limited at a time: on a Dask cluster by profiles/default, in a job of a cluster by the Snakefile.
        extractions=1,
    log:
        paths.log("extract/{acquisition}"),
    benchmark:
        paths.benchmark("extract/{acquisition}")
    group:
        batch
    conda:
        ENVIRONMENT
    shell:
        "parcelwise extract --settings {params.settings:q} --record {params.record:q}"
        " --item {input.item:q} --pixel-index {input.pixel_index:q}"
        " --pixels {output.pixels:q} --valid {output.valid:q} --counts {output.counts:q}"
        " --damaged {resources.damaged:q} --scheduler {resources.scheduler:q}"
        " --threads {threads} --log {log:q}"


rule extractions:
    message:
        "The parcels' pixels of all acquisitions are in {paths.extractions}."
    input:
        lambda wildcards: map(paths.extracted, read_used(table())),


rule assemble:
    message:
        "Pack the pixels of the parcels of tile {wildcards.tile}."
    input:
        pixels=lambda wildcards: [paths.extracted(a) for a in of_tile(wildcards)],
        valid=lambda wildcards: [paths.extracted_valid(a) for a in of_tile(wildcards)],
        # Ancient, because every new acquisition of any tile rewrites the file. See params.
        acquisitions=ancient(paths.acquisitions),
        pixel_index=paths.pixel_index("{tile}"),
    output:
        paths.dataset.tile("{tile}").packed,
        observations=paths.dataset.tile("{tile}").observations,
    params:
        settings=settings_of("assemble"),
        record=paths.record("assemble"),
        acquisitions=of_tile,
        extracted=paths.extractions,
        counts=paths.counts,
        tile=lambda wildcards: paths.dataset.tile(wildcards.tile).root,
    threads: 2
    resources:
        mem_mb=memory("assemble", more_mb=settings.assemble.memory_mb),
        scheduler=settings.dask.scheduler or "threads",
    log:
        paths.log("assemble/{tile}"),
    benchmark:
        paths.benchmark("assemble/{tile}")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise assemble --settings {params.settings:q} --record {params.record:q}"
        " --acquisitions {input.acquisitions:q}"
        " --extracted {params.extracted:q} --pixel-index {input.pixel_index:q}"
        " --counts {params.counts:q} --tile {params.tile:q} --scheduler {resources.scheduler:q}"
        " --threads {threads} --log {log:q}"


rule export:
    message:
        "Write the dataset in the layout of the reference."
    input:
        tiles=packed,
    output:
        paths.dataset.metadata,
        files=[directory(f) for f in paths.dataset.npy_files] if settings.dataset.npy_files else [],
    params:
        settings=settings_of("export"),
        record=paths.record("export"),
        tiles=tile_folders,
        dataset=paths.dataset.root,
    threads: 2
    resources:
        mem_mb=memory("export", more_mb=settings.assemble.memory_mb),
    log:
        paths.log("export"),
    benchmark:
        paths.benchmark("export")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise export --settings {params.settings:q} --record {params.record:q}"
        " --tiles {params.tiles:q} --dataset {params.dataset:q} --threads {threads} --log {log:q}"


rule label:
    message:
        "Choose the classes, label the parcels, and write the ledger."
    input:
        rows=rules.clean.output.rows,
        overlaps=rules.clean.output.overlaps,
        counts=lambda wildcards: map(paths.pixel_counts, tiles(wildcards)),
        assembled=packed,
        codes=without_braces(settings.parcels.code_tables.values()),
        weights=without_braces(EXISTING_WEIGHTS),
    output:
        ledger=multiext(str(paths.ledger.with_suffix("")), ".parquet", ".csv"),
        classes=paths.classes,
        labelled=paths.dataset.labelled,
    params:
        settings=settings_of("label"),
        record=paths.record("label"),
        unwatched=verbatim(
            states_of_others([*settings.parcels.code_tables.values(), *EXISTING_WEIGHTS])
        ),
        observed=lambda wildcards: [paths.dataset.tile(t).parcels for t in tiles(wildcards)],
        ledger=paths.ledger,
        dataset=paths.dataset.root,
    resources:
        mem_mb=memory("label", paths.register),
        # Not a parameter: other names must not trigger a training, although models contain names.
        names=json.dumps(settings.parcels.names and str(settings.parcels.names)),
    log:
        paths.log("label"),
    benchmark:
        paths.benchmark("label")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise label --settings {params.settings:q} --record {params.record:q}"
        " --rows {input.rows:q} --overlaps {input.overlaps:q} --counts {input.counts:q}"
        " --observed {params.observed:q} --ledger {params.ledger:q} --classes {output.classes:q}"
        " --dataset {params.dataset:q} --names {resources.names:q} --log {log:q}"


rule names:
    message:
        "Name the classes."
    input:
        classes=rules.label.output.classes,
        names=without_braces(filter(None, [settings.parcels.names])),
    output:
        names=paths.dataset.names,
        table=report(paths.class_table, caption="captions/classes.rst", category=INPUTS),
    params:
        settings=settings_of("names"),
        record=paths.record("names"),
        unwatched=verbatim(states_of_others(filter(None, [settings.parcels.names]))),
        dataset=paths.dataset.root,
    resources:
        mem_mb=memory("names"),
    log:
        paths.log("names"),
    benchmark:
        paths.benchmark("names")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise names --settings {params.settings:q} --record {params.record:q}"
        " --classes {input.classes:q}"
        " --dataset {params.dataset:q} --table {output.table:q} --log {log:q}"


rule features:
    message:
        "Compute the geometric features of the parcels."
    input:
        parcels=rules.clean.output.parcels,
        pixel_index=lambda wildcards: map(paths.pixel_index, tiles(wildcards)),
        tiles=packed,
        # Ancient, because export derives them from the tiles.
        dataset=ancient(paths.dataset.metadata),
    output:
        features=paths.dataset.features,
        positions=paths.dataset.positions,
    params:
        dataset=paths.dataset.root,
    resources:
        mem_mb=memory("features", paths.parcels),
    log:
        paths.log("features"),
    benchmark:
        paths.benchmark("features")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise features --parcels {input.parcels:q} --pixel-index {input.pixel_index:q}"
        " --dataset {params.dataset:q} --features {output.features:q}"
        " --positions {output.positions:q} --log {log:q}"


# The metadata are ancient: export derives them from the tiles, and rewrites them unchanged if only
# dataset.npy_files has changed.
PACKED = lambda wildcards: [*packed(wildcards), *ancient(paths.dataset.metadata)]
# The metadata of the parcels.
DATASET = [rules.features.output]
# The classes of the parcels, and the displayed names of the classes.
LABELS, NAMES = rules.label.output.labelled, rules.names.output.names
# The jobs whose settings the report shows.
JOBS = [
    *(["simulate"] if settings.simulate else []),
    *("index", "clean", "rasterise", "extract", "assemble", "export", "label", "names"),
]
