"""Files are written whole or not at all."""

import json

import pytest

from pipeline.workflow.writing import (
    finite_or_null,
    replacing,
    replacing_folder,
    write_json,
    write_text,
)


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "image.tif"
    with replacing(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, ".tif")
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "DATA"
    for name in ("stale", "fresh"):
        with replacing_folder(path) as temporary:
            (temporary / name).write_text(name)
    assert [p.name for p in path.iterdir()] == ["fresh"]
    with pytest.raises(RuntimeError), replacing_folder(path) as temporary:
        (temporary / "half").write_text("half")
        raise RuntimeError
    assert [p.name for p in path.iterdir()] == ["fresh"]
    assert list(tmp_path.iterdir()) == [path]


def test_values_that_are_not_finite_become_null(tmp_path):
    path = tmp_path / "log.json"
    values = {"a": 0.5, "b": float("nan"), "c": float("inf"), "d": -float("inf")}
    write_json(path, finite_or_null(values))
    assert json.loads(path.read_text()) == {"a": 0.5, "b": None, "c": None, "d": None}


def test_json_is_utf_8_and_without_nan(tmp_path):
    path = tmp_path / "values.json"
    write_json(path, {"é": [1, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": [1, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": [1, None]}
