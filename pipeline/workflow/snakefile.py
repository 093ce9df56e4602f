"""Functions of the Snakefile, so that it contains no logic."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NoReturn

from geo.errors import InputError, first_five, nearest
from pipeline.logs import LIBRARY
from pipeline.run_function import WORKFLOW
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.cluster import note_cluster_run, settle_results, wait_for_jobs
from pipeline.workflow.config import load, merged, read_values, view
from pipeline.workflow.inputs import check_cluster_paths, check_inputs, contents_state
from pipeline.workflow.messages import end_on_sigterm, keep_messages_short
from pipeline.workflow.paths import DatasetPaths, RunPaths
from pipeline.workflow.rounding import rounded, score
from pipeline.workflow.sections.models import DIVISION_SETTINGS
from pipeline.workflow.settings import Settings, from_json
from pipeline.workflow.software import SOURCE
from pipeline.workflow.writing import sweep, write_text

# Environment variable: the settings that `parcelwise run` lays over those of the files, as JSON.
# Snakemake's own --config would turn null and numbers into text.
ASSIGNMENTS = "PARCELWISE_SETTINGS"
# Rules that run once for each of these cannot be a target by name.
REPEATED = {
    "rasterise": "tile",
    "extract": "acquisition",
    "assemble": "tile",
    "train": "fold",
    "train_season": "fold",
}
# With split.also, so do these.
DIVIDED = dict.fromkeys(("split", "calibrate", "evaluate"), "division into folds")
# Targets that do not exist if existing weights are used.
TRAINING = (
    *("variogram", "split", "train", "calibrate", "evaluate", "models"),
    *("train_season", "evaluate_season", "season"),
)
# Options with which Snakemake starts no job.
_NO_RUN = {"-n", "--dry-run", "--dryrun", "--unlock"}
METHODS = {
    "gradient_boosting": "boosting on means",
    "random_forest": "random forest on means",
    "logistic_regression": "regression on means",
    "majority": "most frequent class",
}
SIMULATED = (
    "The scene is SIMULATED. The scores show that the software works, not how well it maps crops."
)


def start(
    files: Iterable[Path],
    config: Mapping[str, Any],
    checkout: str | Path,
    *,
    is_main: bool,
    cores: int | None = None,
    on_mistake: Callable[[], None] = lambda: None,
) -> Settings:
    """Load and check the settings of a run. If they are wrong, end the process with one message.

    Parameters
    ----------
    files
        Files of settings. They are not read by Snakemake, which would take a repeated key for its
        last value, and NO or 010 for what they mean in YAML 1.1.
    config
        Settings of Snakemake's --config, which override those of the files.
    checkout
        Folder of the Snakefile.
    is_main
        False for a job on another machine. It parses the Snakefile again, but must use the settings
        with which the run started.
    cores
        Cores that Snakemake may use; None: not known.
    on_mistake
        Called when a job has ended with an error of the user.
    """
    keep_messages_short(on_mistake)
    os.environ[WORKFLOW] = str(os.getpid())
    try:
        check_installation(checkout)
        if cores is not None and cores < 1:
            raise InputError("--cores must be at least 1, or all: no job can run without a core.")
        assignments = json.loads(os.environ.get(ASSIGNMENTS, "{}"))
        settings = load(merged(merged(read_values(files), config), assignments))
        check_inputs(settings)
        if is_main:
            _check_is_folder(RunPaths.of(settings.run).root)
            for name in _named_stages(sys.argv[1:]):
                check_target(name, settings, is_alone=False)
            _check_contents(settings)
            if not _NO_RUN.intersection(sys.argv):
                wait_for_jobs(RunPaths.of(settings.run), settings)
        started = RunPaths.of(settings.run).started
        if not is_main and started.is_file():
            settings = from_json(started.read_text(encoding="utf-8"), Settings)
    except (InputError, OSError) as error:
        sys.exit(f"\n{error}")
    return settings


def _named_stages(words: Sequence[str]) -> list[str]:
    """Return what Snakemake's options name to run again, to run up to, or to leave out.

    Snakemake itself ignores unknown names of --omit-from.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for options in (("-R", "--forcerun"), ("-U", "--until"), ("-O", "--omit-from")):
        parser.add_argument(*options, nargs="*", dest=options[1])
    known, _ = parser.parse_known_args(words)
    return [name for names in vars(known).values() for name in names or ()]


def check_target(target: str, settings: Settings, *, is_alone: bool = True) -> None:
    """Check that a target is a rule of the run, or can be one of its files.

    Parameters
    ----------
    target
        The name of a rule, or a path.
    settings
        All settings.
    is_alone
        Whether it is a target of its own, and not one that an option names beside the targets.

    Raises
    ------
    InputError
        If it is neither.
    """
    rules = set(_rules(settings))
    root = RunPaths.of(settings.run).root
    made = [root]
    if settings.simulate is not None:
        made += [Path(settings.imagery.path or root), settings.parcels.path or root]
    path = Path(target).absolute()
    is_file = any(one.absolute() in (path, *path.parents) for one in made)
    if target in TRAINING and settings.predict.weights is not None:
        refuse_training()
    repeated = REPEATED if settings.split.also is None else REPEATED | DIVIDED
    if is_alone and target in repeated and target in rules:
        raise InputError(
            f"{target!r} runs once per {repeated[target]} and cannot be a target. Name the target "
            f"that needs it, or run it again by `-- --forcerun {target}`."
        )
    if target in rules or is_file:
        return
    sections = [name for name in Settings.model_fields if target.startswith(f"{name}.")]
    known = rules - set(repeated) if is_alone else rules
    near = nearest(target, known)
    if sections:
        hint = f"To change a setting, write {target}=VALUE."
    elif near:
        hint = f"Did you mean {near!r}?"
    else:
        hint = f"Known are {', '.join(sorted(known))}."
    raise InputError(f"{target!r} is neither a target of this run nor a file in {root}. {hint}")


def refuse_training() -> NoReturn:
    """Refuse to make models if there are existing ones."""
    raise InputError(
        "predict.weights is set: these weights are used, and nothing is trained. Choose the target "
        "predictions or report, or remove predict.weights."
    )


def refuse_unlabelled(settings: Settings) -> None:
    """Refuse to train if no parcel has a label, before anything is made.

    Only the split needs labels. Inputs that had some are not read again.
    """
    if settings.parcels.labels or RunPaths.of(settings.run).folds.is_file():
        return
    sources, register = settings.dataset.sources, settings.parcels.path
    if sources:
        for source in sources:
            path = DatasetPaths(source).labels
            labels = read_json(path, dict) if path.is_file() else {}
            codes = labels.get(settings.dataset.nomenclature or next(iter(labels), ""), {})
            if any(code not in (None, "") for code in codes.values()):
                return
        remedy = f"write {path}, {{nomenclature: {{id: code}}}}"
    else:
        if register is not None and settings.simulate is None and find_spec("pyogrio") is not None:
            # Only a register whose settings name no labels is read here: fiboa names its own.
            from geo.register.reading import fiboa_columns

            columns = fiboa_columns(register, settings.parcels.layer, settings.parcels.encoding)
            if "crop:code" in (columns or ()):
                return
        remedy = "set parcels.labels to the column of the crops, such as {crop: CODE}"
    raise InputError(
        f"No parcel has a label, so that no model can be trained: {remedy}. Without labels, choose "
        "the target dataset, or set predict.weights to existing weights."
    )


def _rules(settings: Settings) -> Iterator[str]:
    """Yield the names of the rules that these settings include."""
    files = ["Snakefile", "rules/dataset.smk"]
    files.append(f"rules/{'ingestion' if settings.dataset.sources else 'preparation'}.smk")
    if settings.predict.weights is None:
        files += ["rules/training.smk", "rules/worklist.smk"]
    if not settings.dataset.sources:
        files.append("rules/areas.smk")
    if settings.report.attention:
        files.append("rules/explain.smk")
    for file in files:
        text = (SOURCE / file).read_text(encoding="utf-8")
        names = re.findall(r"^ *(?:rule|checkpoint|use rule \w+ as) (\w+)(?::| with:)", text, re.M)
        yield from (name for name in names if name != "simulate" or settings.simulate is not None)


def _check_contents(settings: Settings) -> None:
    """Check register, tables, existing dataset and weights, if they were not checked before.

    The libraries that read them would slow down every start of Snakemake, so another process checks
    them, unless a run has started with the same inputs. A dry run leaves no record of its check.

    Raises
    ------
    InputError
        If they cannot be used.
    """
    checked = RunPaths.of(settings.run).checked
    if settings.simulate is not None:
        return
    if checked.is_file() and checked.read_text(encoding="utf-8") == contents_state(settings):
        return
    module = "pipeline.inspection.check"
    command = [sys.executable, "-P", "-m", module, "--settings", settings.model_dump_json()]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603
    text = done.stderr.replace("pipeline.check: ", "").strip()
    if done.returncode != 0:
        raise InputError(text)
    if text:
        sys.stderr.write(f"{text}\n")


def freeze(
    settings: Settings,
    passed_to_shell: Iterable[Path | str],
    workflow: Any = None,
) -> None:
    """Write the settings with which a run starts, and delete what killed jobs of it left behind.

    If the run cannot start, end the process.

    Parameters
    ----------
    passed_to_shell
        Paths that a cluster's executor passes to a shell; empty for a local run.
    workflow
        Snakemake's, with its graph of jobs; None: there is none.
    """
    paths = RunPaths.of(settings.run)
    try:
        check_cluster_paths(passed_to_shell)
        if workflow is not None:
            settle_results(paths, settings, workflow)
        swept = sweep(paths.root)
        write_text(paths.started, settings.model_dump_json())
        # `start` has checked them.
        write_text(paths.checked, contents_state(settings))
        if workflow is not None:
            note_cluster_run(paths, workflow.scheduler._executor)
            end_on_sigterm(workflow.scheduler)
        _check_folders(paths.root)
    except InputError as error:
        sys.exit(f"\n{error}")
    except OSError as error:
        sys.exit(f"\n{_unwritable(paths.root, error.strerror)}")
    if swept:
        names = first_five(path.relative_to(paths.root) for path in swept)
        sys.stderr.write(f"Deleted what killed jobs had begun to write: {names}\n")


def _unwritable(folder: Path, why: str | None) -> InputError:
    return InputError(
        f"{folder.absolute()} cannot be written: {why}. Write results elsewhere: parcelwise run "
        "FILE --directory DIR, or snakemake --directory DIR."
    )


def _check_folders(root: Path) -> None:
    """Check that the folders of an earlier run, to the second level, can be written."""
    level = [root]
    for _ in range(2):
        level = [
            Path(entry.path)
            for folder in level
            for entry in os.scandir(folder)
            if entry.is_dir(follow_symlinks=False)
        ]
        for folder in level:
            if not os.access(folder, os.W_OK | os.X_OK):
                raise _unwritable(folder, "Permission denied")


def _check_is_folder(root: Path) -> None:
    """Check that the folder of a run is none yet, or a folder, and so are those above it."""
    for path in (root, *root.parents):
        if os.path.lexists(path) and not path.is_dir():
            what = f"a link to {path.readlink()}" if path.is_symlink() else "a file"
            raise InputError(
                f"{path.absolute()} is {what}, not a folder. Rename it, or write results elsewhere "
                "(--directory DIR)."
            )


def check_folder(folder: Path) -> None:
    """Check that Snakemake can write its own files into the folder that gets results/.

    Raises
    ------
    InputError
        If it cannot; Snakemake itself would show a traceback.
    """
    own = folder / ".snakemake"
    try:
        own.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=own):
            pass
    except OSError as error:
        raise _unwritable(folder, error.strerror) from None


def is_simulated(settings: Settings) -> bool:
    """Return whether the scene is simulated, or an existing dataset states that it is."""
    descriptions = [DatasetPaths(source).description for source in settings.dataset.sources]
    return settings.simulate is not None or any(
        read_json(path, dict).get("simulated", False) for path in descriptions if path.is_file()
    )


def stage_settings(settings: Settings, stage: str) -> Callable[[Any], str]:
    """Return the settings of a stage as the parameter of its rule, which also triggers reruns."""
    return verbatim(view(settings, stage).model_dump_json())


def batch_of(
    position: Callable[[], int], components: Mapping[str, int], parents: dict[str, str]
) -> str | None:
    """Return the name of the group of jobs to which an extraction belongs; None: to no group.

    Snakemake's --group-components alone does not work here: each time that a checkpoint changes the
    graph of jobs, Snakemake (9.27) merges groups that are merged already. In groups with names of
    their own, there is nothing more to merge.

    Parameters
    ----------
    position
        Returns the position of the acquisition among all that are used.
    components
        --group-components: extractions=SIZE is the number of extractions of a group.
    parents
        `workflow.parent_groupids`: that option applies to all groups whose parent it names.
    """
    size = components.get("extractions", 1)
    if size <= 1:
        return None
    name = f"extractions_{position() // size}"
    parents[name] = "extractions"
    return name


def division_settings(settings: Settings, way: str) -> str:
    """Return the settings of stage split for split.by or split.also, as the parameter of its rule.

    Only those that this way of dividing reads: another side of blocks, or another split.also, must
    not trigger the training on random folds.
    """
    used = {"folds", "seed", "by" if way == settings.split.by else "also"}
    if way in DIVISION_SETTINGS:
        used.add(DIVISION_SETTINGS[way])
    passed: str = view(settings, "split").model_dump_json(include={"split": used})
    return passed


def check_installation(checkout: str | Path, packages: str | None = None) -> None:
    """Check that the packages are installed from this checkout, by an editable install.

    A plain `pip install .` copies them. After an edit or a pull, the rules of the checkout would
    then call the stages of the copy, even if Snakemake itself imports from the checkout.

    Parameters
    ----------
    checkout
        Folder of the Snakefile.
    packages
        Folder of installed packages; None: that of this Python.

    Raises
    ------
    InputError
        If another checkout or a copy is installed.
    """
    found = str(SOURCE) if Path(checkout).resolve() != SOURCE else None
    installed = metadata.distributions(
        name="parcelwise", path=[packages or sysconfig.get_path("purelib")]
    )
    for distribution in installed:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if not origin.get("dir_info", {}).get("editable"):
            found = f"{distribution.locate_file('')}, a copy"
    if found is not None:
        raise InputError(
            f"Parcelwise is installed from {found}, but this workflow is that of {checkout}. In "
            f"{checkout}, run `python -m pip install --editable .`."
        )


def escaped(text: object) -> str:
    """Double the braces of a text that Snakemake formats."""
    return str(text).replace("{", "{{").replace("}", "}}")


def verbatim(value: Any) -> Callable[[Any], Any]:
    """Return a value as a function of wildcards, in which Snakemake replaces no braces."""
    return lambda wildcards: value  # noqa: ARG005 (Snakemake passes the argument by this name)


def without_braces(paths: Iterable[Path | str]) -> list[Path | str]:
    """Return the files without braces. Snakemake cannot watch files with braces."""
    return [path for path in paths if "{" not in str(path)]


def states_of_others(paths: Iterable[Path | str]) -> list[list[str | int]]:
    """Return path, size and time (ns) of files with braces: a parameter that triggers reruns."""
    states: list[list[str | int]] = []
    for path in map(Path, paths):
        if "{" in str(path) and path.exists():
            stat = path.stat()
            states.append([str(path), stat.st_size, stat.st_mtime_ns])
    return states


def summary(paths: RunPaths, also: str | None = None) -> str:
    """Describe the results of a run: the paths that exist, and the scores.

    Parameters
    ----------
    paths
        The run.
    also
        split.also.
    """
    lines = []
    for what, path in (
        ("dataset", paths.dataset.root),
        ("predictions", paths.predictions),
        ("season", paths.season_accuracy.with_suffix(".csv")),
        ("report", paths.report),
    ):
        if path == paths.predictions and not path.exists():
            path = path.with_suffix(".csv")
        if path.exists():
            lines.append(f"{what:12} {path}")
    lines += _library_warnings(paths)
    try:
        lines += _scores(paths, "out of fold")
        if also is not None:
            lines += _scores(paths.divided_by(also), f"out of fold, {also}")
        description = paths.dataset.description
        if description.is_file() and read_json(description, lambda values: values["simulated"]):
            lines += ["", SIMULATED]
        return "\n".join(lines)
    except InputError as error:
        return "\n".join([*lines, "", str(error)])


def _library_warnings(paths: RunPaths) -> list[str]:
    """Group the warnings of libraries in the logs of a run: a line for each of three kinds."""
    kinds: dict[str, list[str]] = {}
    for log in sorted(paths.logs.rglob("*.log")):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(LIBRARY):
                # Those of several files differ in names and numbers.
                kind = re.sub(r"\S*[/\d]\S*", "", line)
                kinds.setdefault(kind, []).append(f"{line[len(LIBRARY) :]} ({log})")
    most = sorted(kinds.values(), key=len, reverse=True)[:3]
    return [f"{len(found)} warnings of a library, such as: {found[0]}" for found in most]


def _scores(paths: RunPaths, title: str) -> list[str]:
    """Describe the scores of a run, if it has any."""
    lines = []
    if paths.overall.is_file() and paths.baselines.is_file():
        model = read_json(paths.overall, _shown_scores)
        baselines = read_json(
            paths.baselines, lambda found: {m: _shown_scores(own) for m, own in found.items()}
        )
        lines.append("")
        lines.append(f"{title:24}{'overall accuracy':>18}{'mean IoU':>10}{'macro F1':>10}")
        for method, (accuracy, iou, f1) in {"model": model, **baselines}.items():
            name = METHODS.get(method, method)
            right = f"{rounded(100 * accuracy, 1, 100)}%"
            lines.append(f"{name:24}{right:>18}{score(iou):>10}{score(f1):>10}")
    return lines


def _shown_scores(values: Mapping[str, float]) -> list[float]:
    """Return overall accuracy, mean IoU and macro F1."""
    return [float(values[metric]) for metric in ("Accuracy", "MACRO_IoU", "MACRO_F1-score")]
