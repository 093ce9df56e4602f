# The dataset of the run is made from an existing Pixel-Set dataset, or from several.

from pipeline.workflow.inputs import shared_files, watched_dataset
from pipeline.workflow.paths import DatasetPaths, ingested_tiles

SOURCES = settings.dataset.sources
WATCHED = [file for source in SOURCES for file in watched_dataset(source)]
# Optional files of a dataset.
OPTIONAL = shared_files(SOURCES)
# The normalisation of several datasets is computed.
OWN_NORMALISATION = len(SOURCES) == 1 and DatasetPaths(SOURCES[0]).existing_normalisation


rule ingest:
    message:
        "Check the dataset {params.source} and pack its pixels."
    input:
        without_braces([*WATCHED, *EXISTING_WEIGHTS]),
    output:
        packed=[paths.dataset.tile(name).arrays for name in ingested_tiles(len(SOURCES))],
        meta=paths.dataset.metadata,
        normalisation=paths.dataset.normalisation if OWN_NORMALISATION else [],
        optional=[getattr(paths.dataset, file) for file in OPTIONAL],
        labelled=paths.dataset.labelled,
        names=paths.dataset.names,
        ledger=multiext(str(paths.ledger.with_suffix("")), ".parquet", ".csv"),
        classes=[paths.classes, paths.class_table],
    params:
        source=SOURCES,
        unwatched=verbatim(states_of_others([*WATCHED, *EXISTING_WEIGHTS])),
        settings=settings_of("ingest"),
        record=paths.record("ingest"),
        dataset=paths.dataset.root,
        ledger=paths.ledger,
        classes=paths.classes,
    threads: 2
    resources:
        mem_mb=memory("ingest"),
    log:
        paths.log("ingest"),
    benchmark:
        paths.benchmark("ingest")
    conda:
        ENVIRONMENT
    shell:
        "parcelwise ingest --settings {params.settings:q} --record {params.record:q}"
        " --source {params.source:q}"
        " --dataset {params.dataset:q} --ledger {params.ledger:q} --classes {params.classes:q}"
        " --threads {threads} --log {log:q}"


PACKED = [rules.ingest.output]
# The rule ingest writes everything that other rules add to a dataset of imagery.
DATASET = []
LABELS, NAMES = rules.ingest.output.labelled, rules.ingest.output.names
# The jobs whose settings are shown in the report.
JOBS = ["ingest"]
