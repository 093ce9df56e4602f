"""JSON in parts equals JSON as a whole, wherever a part ends."""

import json
import tracemalloc

import numpy as np
import pytest

from geo.errors import InputError
from pipeline.workflow import large_json
from pipeline.workflow.large_json import read_json_parts, write_json_parts
from pipeline.workflow.writing import write_json

FORMATS = ({}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False})
VALUES: tuple[object, ...] = (
    *(1, 2.5, None, True, "", 'a, "b', "é,", [], {}, [1, 2.5], ['a, "', 'b", "c"']),
    {"k": [1, {"z, ": 2}], "q": {}, "": [{}]},
)


def some_object(rng: np.random.Generator) -> dict[str, object]:
    """An object whose keys and values contain what ends a part."""
    chosen = rng.integers(len(VALUES), size=rng.integers(20))
    return {f'{i}é, "{rng.random()}': VALUES[c] for i, c in enumerate(chosen)}


def together(path, **options):
    """The entries of all parts, in their order."""
    return [entry for part in read_json_parts(path, **options) for entry in part.items()]


@pytest.mark.parametrize("n_entries", [1, 3, 10_000])
def test_parts_are_the_whole_wherever_they_end(tmp_path, monkeypatch, n_entries):
    monkeypatch.setattr(large_json, "ENTRIES_AT_A_TIME", n_entries)
    path, rng = tmp_path / "some.json", np.random.default_rng(n_entries)
    for trial in range(40):
        own, options = some_object(rng), FORMATS[trial % len(FORMATS)]
        path.write_text(json.dumps(own, **options), encoding="utf-8-sig" if trial % 3 else "utf-8")
        assert together(path) == list(own.items())
        objects = {"A": some_object(rng), "é, ": own, "B": {}}
        path.write_text(json.dumps(objects, **options))
        for name, expected in objects.items():
            assert together(path, within=name) == list(expected.items())


def test_numbers_are_those_that_python_reads(tmp_path):
    rng = np.random.default_rng(1)
    floats = rng.random(2000) * 10.0 ** rng.integers(-300, 300, 2000)
    values = {str(i): value for i, value in enumerate([*floats.tolist(), 2**53 + 1, -0.0, 1e5])}
    write_json(tmp_path / "some.json", values)
    found = together(tmp_path / "some.json")
    assert [repr(v) for _, v in found] == [repr(v) for v in values.values()]


def test_many_parts_are_read_of_a_large_file(tmp_path):
    write_json(tmp_path / "large.json", {str(i): [i, i + 0.5] for i in range(25_000)})
    assert len(list(read_json_parts(tmp_path / "large.json"))) == 3


@pytest.mark.parametrize("n_entries", [1, 1000])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "some.json"),
        ("[1]", "expected an object, found \\[1"),
        ('{"a": 1, "b": 2, "a": 1}', "key 'a' occurs more than once"),
        ('{"a": 1} x', "trailing garbage"),
        ('{"a": 1,}', "some.json"),
        ('{,"a": 1}', "some.json"),
        ('{"a": 1,, "b": 2}', "some.json"),
        ('{"a" 1}', "some.json"),
        ('{"a": 1', "some.json"),
        ('{"a": 1, "b": "', "some.json"),
    ],
)
def test_what_is_no_object_is_refused(tmp_path, monkeypatch, text, words, n_entries):
    monkeypatch.setattr(large_json, "ENTRIES_AT_A_TIME", n_entries)
    (tmp_path / "some.json").write_text(text)
    with pytest.raises(InputError, match=words):
        together(tmp_path / "some.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": {}}', "no key 'b'"),
        ('{"a": {"c": 1}}', "no key 'b'"),
        ('{"b": {}, "b": {}}', "key 'b' occurs more than once"),
        ('{"b": {"c": 1}, "b": {"c": 2}}', "key 'b' occurs more than once"),
        ('{"b": [1]}', "expected an object"),
        ('{"b": {} "c": {}}', "some.json"),
        ("{1: {}}", "some.json"),
    ],
)
def test_an_object_without_the_key_is_refused(tmp_path, text, words):
    (tmp_path / "some.json").write_text(text)
    with pytest.raises(InputError, match=words):
        together(tmp_path / "some.json", within="b")


def test_an_object_without_keys_has_no_entries_under_any(tmp_path):
    (tmp_path / "some.json").write_text("{}")
    assert together(tmp_path / "some.json", within="b") == []


def test_parts_are_written_with_the_bytes_of_the_whole(tmp_path):
    path, whole = tmp_path / "parts.json", tmp_path / "whole.json"
    for n in (0, 1, 10_000, 10_001):
        values = {f"é{i}": [i, None, "ü"] for i in range(n)}
        write_json(whole, values)
        write_json_parts(path, iter(values.items()))
        assert path.read_bytes() == whole.read_bytes()
        for nested in ({}, {"a": values}, {"a": values, "é": {}, "c": {"d": 1}}):
            write_json(whole, nested)
            write_json_parts(path, {name: iter(own.items()) for name, own in nested.items()})
            assert path.read_bytes() == whole.read_bytes()


def test_no_part_of_the_memory_grows_with_the_file(tmp_path):
    def peak(n: int) -> int:
        tracemalloc.start()
        write_json_parts(tmp_path / "large.json", ((str(i), [i, 0.5]) for i in range(n)))
        n_read = sum(map(len, read_json_parts(tmp_path / "large.json")))
        assert n_read == n
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few = peak(30_000)
    # 24 bytes of each further key, for its hash; as Python objects, an entry takes 200 and more.
    assert peak(130_000) - few < 100_000 * 40
