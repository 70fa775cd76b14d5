"""Large JSON files by their elements, against the standard library, in little memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steel.errors import InputError
from steel.labels import json_stream
from steel.labels.json_stream import stream_lists


def read(path: Path, *keys: str) -> tuple[set[str], dict[str, list[Any]]]:
    found: dict[str, list[Any]] = {key: [] for key in keys}
    return stream_lists(path, {key: found[key].append for key in keys}), found


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_what_the_standard_library_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent) -> None:
    value = {
        "info": {"a": [1, {"b": "]}"}], "year": 2026},
        "first": [{"id": 10**12, "x": [1.5, -2e-7, 300, True, None, 'é\\"\u2028']}, 12345, "text", [], {}],
        "empty": [],
        "second": [[[1, 2], [3]], -0.25, "a,]}"],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=indent is None), "utf-8")
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    keys, found = read(path, "first", "empty", "second", "absent")
    assert keys == set(value)
    assert found == {**{key: value[key] for key in ("first", "empty", "second")}, "absent": []}


def test_an_empty_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(" {} \n")
    assert read(tmp_path / "a.json", "a") == (set(), {"a": []})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cut short"),
        ("[1]", r"'\[' where \{ should be"),
        ('{"a": [1, 2', "cut short"),
        ('{"a": [1, 2], ', "cut short|Expecting value"),
        ('{"a": [1 2]}', r"'2' where , or \] should be|should be"),
        ('{"a": [1]} x', "something after its end"),
        ('{"a": 3}', "`a` is no list"),
        ('{"a": [1], "a": [2]}', "'a' where a new key should be"),
        ('{"a": [1], 3: 4}', "'3' where a new key should be"),
        ('{"a": [NaN]}', "^not JSON: NaN"),
        ('{"a": ["unterminated}', "Unterminated string"),
        ('{"a": [tru]}', "Expecting value, at character 7"),
        ("{" + '"b":' + "[" * 100_000, "nested too deeply|Expecting value"),
        ('{"a": [' + "1" * 5000 + "]}", "not JSON: "),
    ],
)
def test_what_is_not_json_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.json", "a")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"a": ["\xff"]}')
    with pytest.raises(InputError, match="not a text file in UTF-8"):
        read(tmp_path / "a.json", "a")


def test_a_fault_in_the_middle_does_not_cost_the_rest_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, 2, x' + " " * 10_000 + "]}")
    monkeypatch.setattr(json_stream, "_CHUNK", 64)
    monkeypatch.setattr(json_stream, "_LARGEST", 4096)
    with pytest.raises(InputError, match="Expecting value, at character 13"):
        read(tmp_path / "a.json", "a")
    (tmp_path / "a.json").write_text('{"a": [1, "' + "x" * 10_000 + '"]}')
    with pytest.raises(InputError, match="an element of more than 4,096 characters"):
        read(tmp_path / "a.json", "a")


def test_memory_is_that_of_an_element(tmp_path: Path) -> None:
    """10 MB of list, read with less than 8 MB more than the interpreter had before."""
    path = tmp_path / "a.json"
    with path.open("w") as file:
        file.write('{"a": [0')
        for _ in range(100):
            file.write(", " + json.dumps([[0.5] * 20_000]))
        file.write("]}")
    code = (
        "import resource, sys; from pathlib import Path; from steel.labels.json_stream import stream_lists\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); stream_lists(Path(sys.argv[1]), {'a': lambda item: None}); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert path.stat().st_size > 10_000_000
    assert int(done.stdout) < 8_000  # KiB
