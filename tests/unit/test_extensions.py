"""Extensions: what registers, what is refused, and what a checkpoint says of them."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from steel import extensions
from steel.errors import InputError
from steel.extensions import extensions_of, load_extensions, register, require_extensions
from steel.gates import GATES


@pytest.fixture(autouse=True)
def as_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules, tables and what is loaded are put back."""
    monkeypatch.setattr(extensions, "_loaded", {})
    gates, modules = dict(GATES), set(sys.modules)
    yield
    GATES.clear()
    GATES.update(gates)
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    path.write_text(text)
    monkeypatch.setenv("STEEL_EXTENSIONS", str(path))
    return path


ANOTHER = """from steel.extensions import register
from steel.gates import GATES, Gate
register(GATES, 'another', Gate('...'))
"""


def test_a_file_is_imported_once_and_its_digest_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "own_gates.py", ANOTHER, monkeypatch)
    expected = {"own_gates": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert load_extensions() == load_extensions() == expected  # a second import would register the name twice
    assert GATES["another"].meaning == "..."


def test_nothing_is_imported_where_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEEL_EXTENSIONS", raising=False)
    assert load_extensions() == {}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own.py", "1 / 0\n", r"own\.py: cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("own.py", ANOTHER.replace("another", "soft"), "'soft' is there already, beside none, binary"),
        ("own.py", ANOTHER.replace("another", "Own-Gate"), "'Own-Gate' is no name for a table"),
        ("numpy.py", "", "there is another module called numpy; rename the file"),
    ],
)
def test_what_cannot_be_an_extension_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, message: str
) -> None:
    write(tmp_path / name, text, monkeypatch)
    with pytest.raises(InputError, match=message):
        load_extensions()


def test_a_missing_file_or_module_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEEL_EXTENSIONS", str(tmp_path / "no.py"))
    with pytest.raises(InputError, match=r"STEEL_EXTENSIONS: .*no\.py: no such file"):
        load_extensions()
    monkeypatch.setenv("STEEL_EXTENSIONS", "no_such.module")
    with pytest.raises(InputError, match="No module named 'no_such'"):
        load_extensions()


def test_an_ensemble_has_the_extensions_of_its_members() -> None:
    one, two = ({"config": {"extensions": {name: "d" * 64}}} for name in ("one", "two"))
    joined = {"members": [{"name": "a", "provenance": one}, {"name": "b", "provenance": two}]}
    assert list(extensions_of(joined)) == ["one", "two"]
    with pytest.raises(InputError, match="FILE: made with the extension one, two, which is missing"):
        require_extensions(joined, "FILE")


@pytest.mark.parametrize("provenance", [None, [], {"config": 1, "members": [3, {"provenance": "x"}]}, {"members": {}}])
def test_provenance_may_be_whatever_a_file_held(provenance: object) -> None:
    assert extensions_of(provenance) == {}


def test_register_adds_to_the_table() -> None:
    table = {"a": 1}
    register(table, "b", 2)
    assert table == {"a": 1, "b": 2}
