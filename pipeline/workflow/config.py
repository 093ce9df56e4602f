"""Settings in files and on the command line, and the record of the settings that stages used."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from geo.errors import InputError, nearest, reading
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
    """YAML 1.2, as editors read it, without repeated keys, and whose merges have an end.

    In YAML 1.1, 010 is the number 8, NO and on are truth values, 12:30 is 750, and 2018 is another
    type than 2018-05-01. Here, all of these but 2018 are text, and the settings convert text that
    is a date, or yes and no, where they expect that.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 (typed in the base class)

    def __init__(self, stream: bytes | str) -> None:
        super().__init__(stream)
        self.flattened: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Insert the mappings of merge keys (<<)."""
        if id(node) in self.flattened:  # after that, own keys stand behind the merged ones
            return
        self.flattened.add(id(node))
        lines: dict[str, list[int]] = {}
        for key, _ in node.value:
            lines.setdefault(str(key.value), []).append(key.start_mark.line + 1)
        for key, places in lines.items():
            if len(places) > 1:
                where = " and ".join(map(str, places))
                raise yaml.YAMLError(f"the key {key} is there twice, in lines {where}. Keep one")
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise yaml.YAMLError(f"it merges more than {MOST_VALUES:,} values")


# https://yaml.org/spec/1.2.2/#1032-tag-resolution, without octal and hexadecimal numbers.
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", "<<", ["<"]),
):
    _tag = f"tag:yaml.org,2002:{_name}"
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), _first)


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
        A user's own files, or the config.yaml of a finished run, as in `read_values`.
    assignments
        Settings such as "train.epochs=3", which override those of the files.

    Raises
    ------
    InputError
        If a file is missing or not YAML, or its settings cannot be used.
    """
    return load(merged(read_values(paths), parse_assignments(assignments)))


def read_values(paths: Iterable[Path]) -> dict[str, Any]:
    """Read the values of settings from files; each file overrides those before it.

    Raises
    ------
    InputError
        If a file is missing or not YAML, or repeats a key.
    """
    values: dict[str, Any] = {}
    for path in paths:
        values = merged(values, _read_yaml(path))
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    """Read the sections of one settings file."""
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        files = sorted(str(file) for file in folder.glob("*.yaml"))
        near = files[0] if path.is_dir() and files else nearest(str(path), files)
        what = f"{path} is a folder" if path.is_dir() else f"There is no settings file {path}"
        hint = (
            f"Did you mean {near}?"
            if near is not None
            else "Name your own, or results/<run>/config.yaml."
        )
        raise InputError(f"{what}. {hint}")
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 (safe)
        _check_number(found, str(path))
    except UnicodeDecodeError as error:
        line = 1 + error.object.count(b"\n", 0, error.start)
        raise InputError(
            f"{path} is not YAML: line {line} is not text in UTF-8. Save it in that encoding."
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {_problem(error)}") from None
    except ValueError as error:  # a tag such as !!int of a value that is none
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError(f"{path} is not YAML of settings: it is nested too deeply.") from None
    if not isinstance(found, dict):
        what = "nothing" if found is None else repr(str(found)[:50])
        raise InputError(
            f"{path} contains no settings, found {what}. Write `section:`, and below "
            "it `  key: value`, as in configs/default.yaml."
        )
    return found


def _problem(error: yaml.YAMLError) -> str:
    """Say in which line YAML is broken, what was found, and what is often meant."""
    mark = getattr(error, "problem_mark", None)
    text = " ".join(str(getattr(error, "problem", None) or error).split())
    if mark is None:
        return text
    hints = {
        "'\\t'": "Indent with blanks, not with tabs.",
        "escape": "Write paths with /, or in single quotes.",
        "mapping values are not allowed": "Indent the keys of a section alike, and quote text that "
        "contains a colon.",
        "expected ',' or": "Is a bracket or a brace not closed?",
        "could not find expected ':'": "Write a colon and a blank behind the key.",
    }
    hint = next((f" {hint}" for words, hint in hints.items() if words in text), "")
    return f"line {mark.line + 1}, column {mark.column + 1}: {text}.{hint}"


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
        name = path.stem if path.parent.name == "settings" else path.parent.name
        stage = name.partition("_")[0]  # that of a second division is, such as, split_block
        remedy = f"Make it again: snakemake -R {stage}."
        with reading(path, "a record of settings", remedy):
            record = dict(flat(json.loads(path.read_text(encoding="utf-8"))))
        for key, value in record.items():
            used[key] = value
            found.setdefault(key, {}).setdefault(json.dumps(value), []).append(path.stem)
    values: dict[str, Any] = {}
    for key, _ in flat(Settings().model_dump(mode="json")):
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


def flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (section.name, value) of every setting, and (section, value) of single values."""
    for section, values in settings.items():
        if isinstance(values, dict) and section != "simulate":
            yield from ((f"{section}.{name}", value) for name, value in values.items())
        else:
            yield section, values
