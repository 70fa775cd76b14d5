"""Formats for `test_fuzz`: shard folders, tars of others, unfinished jobs of sharding."""

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from data_prep.__main__ import main as shard
from data_prep.folder import claim, finished_rows
from data_prep.manifest import draft_manifest
from data_prep.options import Options, SplitOptions
from data_prep.plan import make_plan
from data_prep.verify import verify
from data_prep.webdataset_import import ForeignTask, index_tar
from steel.errors import InputError
from steel.images.png import encode_png
from steel.shards.format import write_index
from steel.shards.reader import ShardReader
from steel.shards.tiles import TileGrid
from tests.fuzzing import JSON_EDITS, Format, Random, edit_bytes
from tests.image_folder import arguments, write_images
from tests.shard_folder import defect_mask, make_shards, steel_image, write_tar

# --- shard folders ---


def make_set(folder: Path) -> None:
    images = [steel_image(n, 8, 16) for n in range(6)]
    bitmasks = [defect_mask(n, 8, 16) for n in range(6)]
    bitmasks[5][0, 0] |= 128
    make_shards(folder / "shards", images, bitmasks, shard_size=3, ignore_bit=7)
    for path in (folder / "shards").iterdir():
        path.rename(folder / path.name)
    (folder / "shards").rmdir()


def read_set(folder: Path) -> Any:
    """Everything that training and evaluation take from a set."""
    reader = ShardReader(folder)
    try:
        index, stored = reader.index, reader.samples
        samples = [(reader.read(row), reader.read(row, original_mask=True), reader.read_bytes(row)) for row in range(6)]
        texts = [(stored.key(row), stored.image_id(row)) for row in range(len(stored))]
        numbers = [(name, column.tolist()) for name, column in stored.columns.items()]
        folds = [index.rows([fold]).tolist() for fold in range(reader.manifest.folds)]
        images = [(s.image.tolist(), o.bitmask.tolist(), hashlib.sha256(raw.image).digest()) for s, o, raw in samples]
        return images, texts, numbers, folds, reader.manifest
    finally:
        reader.close()


TILES = {"tile": "32x32", "tile_overlap": 4}


def make_prepared_set(folder: Path, **options: object) -> None:
    write_images(folder.parent / "input", 6)
    assert shard(arguments(folder.parent / "input", folder / "shards", shard_size=3, folds=2, **options)) == 0
    for path in (folder / "shards").iterdir():
        path.rename(folder / path.name)
    (folder / "shards").rmdir()


def make_tiled_set(folder: Path) -> None:
    """Each image of 32x48 in two tiles."""
    make_prepared_set(folder, **TILES)


def verify_set(folder: Path) -> Any:
    """As `data_prep.verify`; what it finds is its way of refusing."""
    with ThreadPoolExecutor(1) as executor:
        faults = verify(str(folder), executor)
    if faults:
        raise InputError(f"{folder}: {faults[0]}")
    return "sound"


def mend_manifest(folder: Path) -> None:
    """Make the manifest agree with the files that are there."""
    manifest = json.loads((folder / "manifest.json").read_text())
    data = (folder / "index.arrow").read_bytes()
    manifest |= {"index_size": len(data), "index_sha256": hashlib.sha256(data).hexdigest()}
    for entry in manifest["shards"]:
        data = (folder / entry["name"]).read_bytes()
        entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def mend_sums(folder: Path) -> None:
    """Make the index's checksums those of the bytes that lie there now, and the manifest agree."""
    table = pa.ipc.open_file(pa.py_buffer((folder / "index.arrow").read_bytes())).read_all()
    rows, schema = table.to_pylist(), table.schema
    shards = [path.read_bytes() for path in sorted(folder.glob("shard-*.tar"))]
    for row in rows:
        for kind in ("image", "mask", "json"):
            start = row[f"{kind}_offset"]
            row[f"{kind}_crc"] = zlib.crc32(shards[row["shard"]][start : start + row[f"{kind}_length"]])
    with open(folder / "index.arrow", "wb") as file:
        write_index(pa.Table.from_pylist(rows, schema), file)
    mend_manifest(folder)


def edit_cell(data: bytes, random: Random) -> bytes:
    """Change one value of an Arrow table to another of its type, or its columns, or leave values out."""
    table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
    rows, schema = table.to_pylist(), table.schema
    field = schema.field(int(random.integers(len(schema))))
    row = int(random.integers(len(rows)))
    match int(random.integers(8)):
        case 0:
            schema = schema.remove(schema.get_field_index(field.name))
        case 1:
            schema = schema.append(pa.field("extra", pa.int32()))
        case 2:
            schema = schema.set(schema.get_field_index(field.name), field.with_nullable(True))
            rows[row][field.name] = None
        case 3:
            kind = [pa.int16(), pa.int64(), pa.string(), pa.float64()][int(random.integers(4))]
            values = [str(n) if kind == pa.string() else n for n in range(len(rows))]
            column = pa.array(values, kind)
            place = table.schema.get_field_index(field.name)
            return _written(table.set_column(place, pa.field(field.name, kind, nullable=False), column))
        case 4:
            rows = rows[:row] + rows[row + 1 :] if random.integers(2) else [*rows, rows[row]]
        case 5:
            rows[row], rows[0] = rows[0], rows[row]
        case _:
            rows[row][field.name] = _another(field.type, rows[row][field.name], random)
    return _written(pa.Table.from_pylist(rows, schema), int(random.integers(9)) == 0)


def _another(kind: pa.DataType, old: Any, random: Random) -> Any:
    if pa.types.is_fixed_size_list(kind):
        values = list(old)
        values[int(random.integers(len(values)))] = _another(kind.value_type, values[0], random)
        return values
    if pa.types.is_string(kind):
        return ["", "../x", "a\nb", old + "x", "x" * 70_000][int(random.integers(5))]
    if pa.types.is_binary(kind):
        return [b"", old[:-1], old * 2, random.bytes(len(old))][int(random.integers(4))]
    if pa.types.is_boolean(kind):
        return not old
    bits = kind.bit_width - (not pa.types.is_unsigned_integer(kind))
    lowest = 0 if pa.types.is_unsigned_integer(kind) else -(1 << bits)
    options = [lowest, (1 << bits) - 1, 0, 1, old + 1, old - 1, old * 2, -old, old + 512, 1 << (bits - 1)]
    return min(max(options[int(random.integers(len(options)))], lowest), (1 << bits) - 1)


def _written(table: pa.Table, in_parts: bool = False) -> bytes:
    """As one batch of rows, or in several."""
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=2 if in_parts else None)
    return buffer.getvalue().to_pybytes()


def edit_arrow_header(data: bytes, random: Random) -> bytes:
    """Overwrite a word where the file describes itself: lengths, types and places of its columns."""
    changed = bytearray(data)
    footer = struct.unpack("<i", data[-10:-6])[0]
    places = [int(random.integers(8, 1500)), len(data) - 10 - int(random.integers(footer)), len(data) - 10]
    at = min(places[int(random.integers(3))] // 4 * 4, len(data) - 8)
    word = [0, 1, -1, 2**31 - 1, -(2**31), 64, 1 << 20][int(random.integers(7))]
    changed[at : at + 4] = struct.pack("<i", word)
    return bytes(changed)


def edit_past_header(data: bytes, random: Random) -> bytes:
    """Change pixels, masks and descriptions rather than zeros between them."""
    changed = bytearray(data)
    used = np.flatnonzero(np.frombuffer(data, np.uint8))
    changed[int(random.choice(used))] ^= 1 << int(random.integers(8))
    return bytes(changed)


# --- tars of others ---


def make_foreign_tar(folder: Path) -> str:
    members: dict[str, bytes] = {}
    for number in range(3):
        key = f"Stück-{'x' * 60 * number}/{number}"
        members[f"{key}.png"] = cv2.imencode(".png", steel_image(number, 8, 16))[1].tobytes()
        members[f"{key}.mask.png"] = encode_png(defect_mask(number, 8, 16) & 1)
        members[f"{key}.json"] = b"{}"
    write_tar(folder / "foreign.tar", members)
    return "foreign.tar"


def index_foreign_tar(folder: Path) -> Any:
    draft = draft_manifest(["spot"], ignore_bit=None, options={}, mask_coding="binary")
    task = ForeignTask(0, "foreign.tar", str(folder / "foreign.tar"), draft, None, None, True, with_signatures=False)
    rows = index_tar(task)
    return rows.size, rows.table.to_pylist()


def edit_tar_header(data: bytes, random: Random) -> bytes:
    """Change a field of a header, and its checksum with it."""
    offsets = [start for start in range(0, len(data) - 512, 512) if data[start + 257 : start + 262] == b"ustar"]
    start = offsets[int(random.integers(len(offsets)))]
    header = bytearray(data[start : start + 512])
    at = int(random.choice([0, 100, 108, 116, 124, 136, 156, 157, 257, 263, 265, 329, 345]))
    field = [b"\0" * 8, b"7" * 11, b"\xff" * 12, b"\x80" + b"\0" * 11, b"x", b"g", b"L", b"-1", b"S", b"5", b" " * 8]
    value = field[int(random.integers(len(field)))]
    header[at : at + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:start] + bytes(header) + data[start + 512 :]


# --- an unfinished job of sharding ---


CLAIM, MARK = "out/.unfinished/plan.json", "out/.unfinished/shard-000000.tar.rows"


def half_a_job(edited: str, **options: object) -> Callable[[Path], str]:
    """The first of two parts of a job on six images."""

    def make(folder: Path) -> str:
        write_images(folder / "input", 6)
        line = arguments(folder / "input", folder / "out", shard_size=3, folds=2, part="1/2", **options)
        assert shard(line) == 0
        return edited

    return make


def options_of(folder: Path, tile: TileGrid | None = None) -> Options:
    images, table, out = (str(folder / name) for name in ("input/images", "input/train.csv", "out"))
    return Options(images, out, table, shard_size=3, split_options=SplitOptions(folds=2), tile=tile)


def read_claim(folder: Path) -> Any:
    options = options_of(folder)
    plan = make_plan(options)
    return claim(options, plan, may_restart=False, may_deal=False), len(plan.shards)


def read_mark(folder: Path, tile: TileGrid | None = None) -> Any:
    """Its rows; where it is not believed, the shard will be written again."""
    options = options_of(folder, tile)
    plan = make_plan(options)
    rows = finished_rows(options, plan, plan.shards[0])
    if rows is None:
        raise InputError(f"{folder}: not finished")
    return rows.size, rows.sha256, rows.table.to_pylist()


def mend_mark(folder: Path) -> None:
    """Give the mark the hash of what it says now."""
    data = (folder / MARK).read_bytes()[:-32]
    (folder / MARK).write_bytes(data + hashlib.sha256(data).digest())


def edit_rows(data: bytes, random: Random) -> bytes:
    """Edit the table in a mark, before its hash."""
    edit = (edit_cell, edit_cell, edit_arrow_header)[int(random.integers(3))]
    return edit(data[:-32], random) + data[-32:]


def whole_set(edited: str, make_it: Callable[[Path], None] = make_set) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        make_it(folder)
        return edited

    return make


FORMATS: dict[str, Format] = {
    "manifest": Format(whole_set("manifest.json"), read_set, JSON_EDITS, names="folder"),
    "manifest, verified": Format(whole_set("manifest.json", make_prepared_set), verify_set, JSON_EDITS, names="folder"),
    "index": Format(
        whole_set("index.arrow"),
        read_set,
        (edit_cell, edit_cell, edit_cell, edit_bytes, edit_arrow_header),
        mend_manifest,
        is_hashed=True,
        names="folder",
    ),
    "index, verified": Format(
        whole_set("index.arrow", make_prepared_set),
        verify_set,
        (edit_cell, edit_cell, edit_bytes, edit_arrow_header),
        mend_manifest,
        is_hashed=True,
        names="folder",
    ),
    "manifest of tiles": Format(whole_set("manifest.json", make_tiled_set), read_set, JSON_EDITS, names="folder"),
    "index of tiles": Format(
        whole_set("index.arrow", make_tiled_set),
        read_set,
        (edit_cell, edit_cell, edit_cell, edit_bytes, edit_arrow_header),
        mend_manifest,
        is_hashed=True,
        names="folder",
    ),
    "index of tiles, verified": Format(
        whole_set("index.arrow", make_tiled_set),
        verify_set,
        (edit_cell, edit_cell, edit_bytes, edit_arrow_header),
        mend_manifest,
        is_hashed=True,
        names="folder",
    ),
    "shard of tiles, verified": Format(
        whole_set("shard-000001.tar", make_tiled_set),
        verify_set,
        (edit_past_header, edit_bytes),
        mend_sums,
        is_hashed=True,
        names="folder",
    ),
    "shard": Format(whole_set("shard-000001.tar"), read_set, (edit_past_header, edit_bytes), mend_sums, names="folder"),
    "shard, verified": Format(
        whole_set("shard-000001.tar", make_prepared_set),
        verify_set,
        (edit_past_header, edit_bytes),
        mend_sums,
        is_hashed=True,
        names="folder",
    ),
    "tar of others": Format(make_foreign_tar, index_foreign_tar, (edit_past_header, edit_bytes, edit_tar_header)),
    "claim of a folder": Format(half_a_job(CLAIM), read_claim, JSON_EDITS, names="folder"),
    "mark of a shard": Format(
        half_a_job(MARK), read_mark, (edit_rows, edit_rows, edit_rows, edit_bytes), mend_mark, True, "folder"
    ),
    "mark of a shard of tiles": Format(
        half_a_job(MARK, **TILES),
        lambda folder: read_mark(folder, TileGrid(32, 32, 4)),
        (edit_rows, edit_rows, edit_rows, edit_bytes),
        mend_mark,
        True,
        "folder",
    ),
}
