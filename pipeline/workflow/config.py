"""Settings in files and on the command line, and the record of the settings that stages used."""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from geo.errors import InputError, first_five, reading
from pipeline.workflow.settings import STAGE_SETTINGS, Settings, checked, part_of

# Values of settings. A few lines of YAML can repeat each other by anchors and aliases (&x, *x), and
# so describe more values than fit into memory.
MOST_VALUES = 50_000


def load(values: Mapping[str, Any]) -> Settings:
    """Check all settings of a run, as read from YAML. Settings that are absent get their default.

    Raises
    ------
    InputError
        If a key is unknown or a value out of range. The message names every one.
    """
    _check_number(dict(values), "The settings")
    return checked(dict(values), Settings)


class _Loader(yaml.SafeLoader):
    """YAML without repeated keys, of which the last would count, and whose merges have an end."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.flattened: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Insert the mappings of merge keys (<<)."""
        if id(node) in self.flattened:  # after that, own keys stand behind the merged ones
            return
        self.flattened.add(id(node))
        counts = Counter(str(key.value) for key, _ in node.value)
        repeated = [key for key, count in counts.items() if count > 1]
        if repeated:
            raise yaml.YAMLError(f"{first_five(repeated)} is there twice{node.start_mark}")
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise yaml.YAMLError(f"it merges more than {MOST_VALUES:,} values")


def _check_number(values: Any, what: str) -> None:
    """Check that settings have at most `MOST_VALUES` values, with their repetitions."""
    numbers: dict[int, float] = {}

    def number(value: Any) -> float:
        if not isinstance(value, dict | list):
            return 1
        if id(value) not in numbers:
            numbers[id(value)] = math.inf  # a value that contains itself has no end
            inner = value.values() if isinstance(value, dict) else value
            numbers[id(value)] = 1 + sum(map(number, inner))
        return numbers[id(value)]

    if number(values) > MOST_VALUES:
        raise InputError(
            f"{what} have more than {MOST_VALUES:,} values, if each alias (*name) is written out. "
            "Write long tables to files, such as parcels.tables."
        )


def view(settings: Settings, stage: str) -> Any:
    """Return the settings that a stage gets, of the type that STAGE_SETTINGS lists for it."""
    return part_of(settings, STAGE_SETTINGS[stage])


def read(*paths: Path, assignments: Iterable[str] = ()) -> Settings:
    """Read settings from files. Settings that are absent get their default.

    Parameters
    ----------
    paths
        A user's own files, or the config.yaml of a finished run. Each file overrides the settings
        of the files before it, as Snakemake does it.
    assignments
        Settings such as "train.epochs=3", which override those of the files.

    Raises
    ------
    InputError
        If a file is missing or not YAML, or its settings cannot be used.
    """
    values: dict[str, Any] = {}
    for path in paths:
        values = merged(values, _read_yaml(path))
    return load(merged(values, parse_assignments(assignments)))


def _read_yaml(path: Path) -> dict[str, Any]:
    """Read the sections of one settings file."""
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        files = sorted(str(file) for file in folder.glob("*.yaml"))
        near = files[:1] if path.is_dir() else difflib.get_close_matches(str(path), files, n=1)
        what = f"{path} is a folder" if path.is_dir() else f"There is no settings file {path}"
        hint = (
            f"Did you mean {near[0]}?" if near else "Name your own, or results/<run>/config.yaml."
        )
        raise InputError(f"{what}. {hint}")
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}  # noqa: S506 (safe)
        _check_number(found, str(path))
    # ValueError: text that is not UTF-8, a date or a number that does not exist.
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError(f"{path} is not YAML of settings: it is nested too deeply.") from None
    if not isinstance(found, dict):
        raise InputError(
            f"{path} contains no settings, found {str(found)[:50]!r}. Write `section:`, and below "
            "it `  key: value`, as in configs/default.yaml."
        )
    return found


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn settings such as "train.epochs=3" into {section: {key: value}}; values are YAML.

    Raises
    ------
    InputError
        If an assignment does not have this form.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        *sections, key = name.split(".")
        if not equals or not all([*sections, key]):
            raise InputError(f"{assignment!r} is not a setting: write section.key=value.")
        try:
            value = yaml.load(text, _Loader)  # noqa: S506 (safe)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise InputError(f"{assignment!r}: the value is not YAML.") from None
        nested = {key: value}
        for section in reversed(sections):
            nested = {section: nested}
        values = merged(values, nested)
    return values


def merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with others laid over them, section by section."""
    result = dict(values)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            value = merged(below, value)
        result[key] = value
    return result


@dataclass(frozen=True)
class SettingsRecord:
    """The settings that the stages of a run used.

    Parameters
    ----------
    values
        {section: {setting: value}}, only of settings that a stage used. If stages used different
        values, that of the last stage.
    notes
        A line for every setting with different values, as after a run with
        `--rerun-triggers mtime`, and for every job without a record.
    """

    values: dict[str, Any]
    notes: list[str]

    @property
    def text(self) -> str:
        """YAML, which can be the settings file of another run."""
        lines = [f"# {line}\n" for line in self.notes]
        return "".join(lines) + yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True)

    def completed(self) -> dict[str, Any]:
        """Return all settings. Those that no stage used have their default."""
        return merged(Settings().model_dump(mode="json"), self.values)


def read_record(jobs: Sequence[Path]) -> SettingsRecord:
    """Read the settings that the jobs of a run used.

    Parameters
    ----------
    jobs
        Files that the stages wrote, see `--record`. The notes name jobs without a file.
    """
    notes = [f"{path.stem} left no record of its settings" for path in jobs if not path.is_file()]
    found: dict[str, dict[str, list[str]]] = {}
    # In order of time, so that the job that finished last determines the value.
    written = sorted((p for p in jobs if p.is_file()), key=lambda path: path.stat().st_mtime_ns)
    used: dict[str, Any] = {}
    for path in written:
        stage = path.stem if path.parent.name == "settings" else path.parent.name
        remedy = f"Make it again: snakemake -R {stage}."
        with reading(path, "a record of settings", remedy):
            record = dict(_flat(json.loads(path.read_text(encoding="utf-8"))))
        for key, value in record.items():
            used[key] = value
            found.setdefault(key, {}).setdefault(json.dumps(value), []).append(path.stem)
    values: dict[str, Any] = {}
    for key, _ in _flat(Settings().model_dump(mode="json")):
        section, _, name = key.partition(".")
        if name and key in used:
            values.setdefault(section, {})[name] = used[key]
        elif key in used:
            values[section] = used[key]
    for key, values_found in found.items():
        if len(values_found) > 1:
            where = (f"{value} in {', '.join(sorted(j))}" for value, j in values_found.items())
            notes.append(f"{key} was not the same everywhere: {'; '.join(sorted(where))}")
    return SettingsRecord(values, notes)


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (section.name, value) of every setting, and (section, value) of single values."""
    for section, values in settings.items():
        if isinstance(values, dict) and section != "simulate":
            yield from ((f"{section}.{name}", value) for name, value in values.items())
        else:
            yield section, values
