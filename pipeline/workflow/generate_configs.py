"""Write configs/default.yaml and configs/schema.json from the settings: `make configs`."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelFieldsSchema

from pipeline.workflow.sections.models import RECIPES, read_recipe
from pipeline.workflow.sections.values import Section, descriptions
from pipeline.workflow.settings import Settings
from pipeline.workflow.writing import write_text

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# First line of every settings file. With it, an editor checks and completes the file.
SCHEMA_LINE = "# yaml-language-server: $schema=schema.json"
HEADER = f"""\
{SCHEMA_LINE}
#
# Every setting with its default. Your own file contains only the settings that differ:
#     parcelwise run configs/mine.yaml
# null means "not set". Unknown keys are refused.
#
# `make configs` writes this file from pipeline/workflow/sections/: edit that.
"""
WIDTH = 100
# First column of the comments.
COLUMN = 33
_OTHERS = [recipe for recipe in RECIPES if recipe != "default"]


def default_yaml() -> str:
    """Return configs/default.yaml: every setting with its default and its description."""
    defaults = Settings().model_dump(mode="json")
    described = descriptions(Settings)
    blocks = []
    for name, field in Settings.model_fields.items():
        section, setting = field.annotation, f"{name}: {_flow(defaults[name])}"
        if isinstance(section, type) and issubclass(section, Section):
            lines = list(_section(name, section, defaults[name]))
        elif name == "run":
            lines = _line(setting, _folded(described[name]))
        else:
            lines = [*_comment(_folded(described[name]), indent=""), setting]
        blocks.append("\n".join(lines))
    return HEADER + "\n" + "\n\n".join(blocks) + "\n"


def schema_json() -> str:
    """Return configs/schema.json: a JSON schema (draft 2020-12) of settings files."""
    schema = Settings.model_json_schema(schema_generator=_Described)
    sections = schema["$defs"]
    for section, name in _recipe_settings():
        # The recipe sets this value if the file does not, or sets null.
        model = sections[section.capitalize()]
        own = model["properties"][name]
        description = own.pop("description")
        model["properties"][name] = {
            "anyOf": [own, {"type": "null"}],
            "default": None,
            "description": f"{_by_recipe(section, name)}; {description}",
        }
        model["required"].remove(name)
    _tidy(schema)
    schema = {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "Settings of a run of Parcelwise",
        **schema,
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


class _Described(GenerateJsonSchema):
    """Add the descriptions of settings."""

    def model_fields_schema(self, schema: ModelFieldsSchema) -> JsonSchemaValue:
        """Return the schema of the settings of a section."""
        found = super().model_fields_schema(schema)
        kind = next(own for own in _kinds(Section) if own.__name__ == schema.get("model_name"))
        for name, text in descriptions(kind).items():
            found["properties"][name]["description"] = text
        return found


def _kinds(kind: type[Section]) -> Iterator[type[Section]]:
    """Yield all types of settings."""
    for own in kind.__subclasses__():
        yield own
        yield from _kinds(own)


def _section(name: str, section: type[Section], defaults: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a section: comment, name, settings."""
    yield from _comment(_folded(inspect.getdoc(section) or ""), indent="")
    if any(of == name == "train" for of, _ in _recipe_settings()):
        yield from _comment(
            "null: the value of the recipe. Comments begin with the value in recipe default, and "
            f"with that in {', '.join(_OTHERS)} if it differs.",
            indent="",
        )
    yield f"{name}:"
    described = {key: _folded(text) for key, text in descriptions(section).items()}
    for key, field in section.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "above" in extra:
            yield from _comment(str(extra["above"]), indent="  ")
        if (name, key) in _recipe_settings():
            yield from _line(f"  {key}: null", f"{_by_recipe(name, key)}; {described[key]}")
        else:
            yield from _line(f"  {key}: {_flow(defaults[key])}", described[key])


def _recipe_settings() -> list[tuple[str, str]]:
    """List the settings whose default is the recipe's: section and name."""
    return [(section, key) for section, keys in read_recipe("default").items() for key in keys]


def _by_recipe(section: str, name: str) -> str:
    """Write the value of a setting in recipe default, and in recipes where it differs."""
    first = read_recipe("default")[section][name]
    others = {recipe: read_recipe(recipe)[section][name] for recipe in _OTHERS}
    differing = (f", {_flow(value)} in {r}" for r, value in others.items() if value != first)
    return _flow(first) + "".join(differing)


def _folded(text: str) -> str:
    """Join the lines of a description, without those that are indented."""
    lines: list[str] = []
    for line in filter(str.strip, text.split("\n")):
        if lines and not line.startswith(" ") and not lines[-1].startswith(" "):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return "\n".join(lines)


def _flow(value: Any) -> str:
    """Write a value on one line of YAML."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _line(setting: str, description: str) -> list[str]:
    """Write a setting with a comment beside it, which continues below."""
    first, *others = description.split("\n")
    start = f"{setting}  ".ljust(COLUMN) + "# "
    below = " " * COLUMN + "# "
    lines = textwrap.wrap(first, WIDTH, initial_indent=start, subsequent_indent=below)
    return [*lines, *(below + other for other in others)]


def _comment(text: str, indent: str) -> list[str]:
    """Write a comment on separate lines."""
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _tidy(schema: Any) -> None:
    """Remove generated titles and our own keys, and join the lines of descriptions."""
    if isinstance(schema, list):
        for part in schema:
            _tidy(part)
    elif isinstance(schema, dict):
        for key, part in list(schema.items()):
            if key in ("title", "above") and isinstance(part, str):
                del schema[key]
            elif key == "description" and isinstance(part, str):
                schema[key] = _folded(part)
            else:
                _tidy(part)


def main() -> None:
    """Write both files."""
    write_text(CONFIGS / "default.yaml", default_yaml())
    write_text(CONFIGS / "schema.json", schema_json())


if __name__ == "__main__":
    main()
