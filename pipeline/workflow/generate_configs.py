"""Write configs/default.yaml and configs/schema.json from the settings: `make configs`."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from pipeline.workflow.sections import RECIPES, read_recipe
from pipeline.workflow.settings import Settings
from pipeline.workflow.writing import write_text

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# The first line of every file of settings: an editor checks and completes the file by the schema.
SCHEMA_LINE = "# yaml-language-server: $schema=schema.json"
HEADER = f"""\
{SCHEMA_LINE}
#
# Every setting with its default. Your own file contains only the settings that differ:
#     parcelwise run configs/mine.yaml
# null means "not set". Unknown keys are refused.
#
# `make configs` writes this file from pipeline/workflow/sections.py: edit that.
"""
WIDTH = 100
# Where the comments begin.
COLUMN = 33
_OTHERS = [recipe for recipe in RECIPES if recipe != "default"]


def default_yaml() -> str:
    """Return configs/default.yaml: every setting with its default, its meaning as a comment."""
    defaults = Settings().model_dump(mode="json")
    blocks = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            blocks.append("\n".join(_section(name, section, defaults[name])))
        elif name == "run":
            blocks.append("\n".join(_line(f"{name}: {_flow(defaults[name])}", _told(field))))
        else:
            above = _comment(_told(field), indent="")
            blocks.append("\n".join([*above, f"{name}: {_flow(defaults[name])}"]))
    return HEADER + "\n" + "\n\n".join(blocks) + "\n"


def schema_json() -> str:
    """Return configs/schema.json: a JSON schema (draft 2020-12) of the files of settings."""
    schema = Settings.model_json_schema()
    sections = schema["$defs"]
    for section, name in _followers():
        # Not set, or null: as the recipe says.
        model = sections[section.capitalize()]
        own = model["properties"][name]
        told = own.pop("description")
        model["properties"][name] = {
            "anyOf": [own, {"type": "null"}],
            "default": None,
            "description": f"{_by_recipe(section, name)}; {told}",
        }
        model["required"].remove(name)
    _tidy(schema)
    schema = {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "Settings of a run of Parcelwise",
        **schema,
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _section(name: str, section: type[BaseModel], defaults: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a section."""
    told = inspect.getdoc(section) or ""
    yield from _comment(" ".join(told.split()), indent="")
    if any(of == name == "train" for of, _ in _followers()):
        yield from _comment(
            "null: as the recipe says. Comments begin with the value of recipe default, and that "
            f"of {', '.join(_OTHERS)} where it differs.",
            indent="",
        )
    yield f"{name}:"
    for key, field in section.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "above" in extra:
            yield from _comment(str(extra["above"]), indent="  ")
        if (name, key) in _followers():
            yield from _line(f"  {key}: null", f"{_by_recipe(name, key)}; {_told(field)}")
        else:
            yield from _line(f"  {key}: {_flow(defaults[key])}", _told(field))


def _followers() -> list[tuple[str, str]]:
    """List the settings whose default is the recipe's: section and name."""
    return [(section, key) for section, keys in read_recipe("default").items() for key in keys]


def _by_recipe(section: str, name: str) -> str:
    """Say the value of a setting in the recipe default, and in those where it differs."""
    first = read_recipe("default")[section][name]
    others = {recipe: read_recipe(recipe)[section][name] for recipe in _OTHERS}
    differing = (f", {_flow(value)} in {r}" for r, value in others.items() if value != first)
    return _flow(first) + "".join(differing)


def _told(field: FieldInfo) -> str:
    """Return the description of a setting, which each must have."""
    if not field.description:
        raise ValueError(f"a setting without a description: {field}")
    return field.description


def _flow(value: Any) -> str:
    """Write a value on one line of YAML."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _line(setting: str, told: str) -> list[str]:
    """Put a comment beside a setting, and go on below it."""
    first, *others = told.split("\n")
    start = f"{setting}  ".ljust(COLUMN) + "# "
    below = " " * COLUMN + "# "
    lines = textwrap.wrap(first, WIDTH, initial_indent=start, subsequent_indent=below)
    return [*lines, *(below + other for other in others)]


def _comment(text: str, indent: str) -> list[str]:
    """Write a comment on lines of its own."""
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _tidy(schema: Any) -> None:
    """Drop what says nothing to an editor: generated titles, and our own keys."""
    if isinstance(schema, list):
        for part in schema:
            _tidy(part)
    elif isinstance(schema, dict):
        for key, part in list(schema.items()):
            if key in ("title", "above") and isinstance(part, str):
                del schema[key]
            else:
                _tidy(part)


def main() -> None:
    """Write both files."""
    write_text(CONFIGS / "default.yaml", default_yaml())
    write_text(CONFIGS / "schema.json", schema_json())


if __name__ == "__main__":
    main()
