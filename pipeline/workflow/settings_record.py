"""Record the settings that each stage of a run used, once it has succeeded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.workflow.config import for_stage
from pipeline.workflow.settings import Settings
from pipeline.workflow.writing import write_json


@dataclass(frozen=True)
class SettingsRecord:
    """The settings that the stages of a run used.

    Parameters
    ----------
    values
        {section: {setting: value}}, only what a stage used; where stages differ, the last one's.
    notes
        A line for every setting that was not the same in all of them, as after a run with
        `--rerun-triggers mtime`, and for every job whose settings are not known.
    """

    values: dict[str, Any]
    notes: list[str]

    @property
    def text(self) -> str:
        """As YAML, which can be given to a run again."""
        lines = [f"# {line}\n" for line in self.notes]
        return "".join(lines) + yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True)

    def completed(self) -> dict[str, Any]:
        """Return all settings: what no stage used has its default."""
        complete = Settings().model_dump(mode="json")
        for section, values in self.values.items():
            if isinstance(values, dict) and isinstance(complete[section], dict):
                complete[section] |= values
            else:
                complete[section] = values
        return complete


def write_record(path: Path, settings: Settings, stage: str) -> None:
    """Write the settings that a stage used; jobs of one stage may write the same file."""
    write_json(path, for_stage(settings, stage))


def read_record(jobs: Sequence[Path]) -> SettingsRecord:
    """Read what the jobs of a run used.

    Parameters
    ----------
    jobs
        Files that `write_record` wrote. A job without one is named in the notes.
    """
    notes = [f"{path.stem} left no record of its settings" for path in jobs if not path.is_file()]
    found: dict[str, dict[str, list[str]]] = {}
    # The last to finish is the last to overwrite.
    written = sorted((p for p in jobs if p.is_file()), key=lambda path: path.stat().st_mtime_ns)
    used: dict[str, Any] = {}
    for path in written:
        for key, value in _flat(json.loads(path.read_text(encoding="utf-8"))):
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
    """Yield every setting as section.name, and a section that is one value by its own name."""
    for section, values in settings.items():
        if isinstance(values, dict) and section != "simulate":
            yield from ((f"{section}.{name}", value) for name, value in values.items())
        else:
            yield section, values
