"""The index of a shard folder: its columns, its checks, and ten million rows of it."""

import hashlib
import json
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from steel.errors import InputError
from steel.shards import index as shard_index
from steel.shards.format import INDEX_NAME, MANIFEST_NAME, index_schema, write_index
from steel.shards.index import Index
from steel.shards.reader import ShardReader
from tests.shard_folder import defect_mask


def test_index_columns(shards: Path) -> None:
    index = ShardReader(shards).index
    assert index.image_id(9) == "images/0009.png"
    assert index.key(9) == "images/0009"
    assert index.rows([1]).tolist() == [1, 3, 5, 7, 9, 11, 13]
    assert index.rows([0, 1]).tolist() == list(range(14))
    assert index.rows([7]).tolist() == []
    assert index.areas.shape == (14, 3)
    assert index.areas[4].sum() == np.count_nonzero(defect_mask(4)) > 0
    assert index.shard.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2
    assert (index.height[0], index.original_width[0], index.group[3]) == (32, 64, 3)


def test_an_index_that_contradicts_itself_is_named_once_for_all_readers(own_shards: Path) -> None:
    table = pa.ipc.open_file(pa.py_buffer((own_shards / INDEX_NAME).read_bytes())).read_all()
    rows = table.to_pylist()
    rows[9]["mask_offset"] = -512
    with open(own_shards / INDEX_NAME, "wb") as file:
        write_index(pa.Table.from_pylist(rows, table.schema), file)
    data = (own_shards / INDEX_NAME).read_bytes()
    manifest = json.loads((own_shards / MANIFEST_NAME).read_text())
    manifest |= {"index_size": len(data), "index_sha256": hashlib.sha256(data).hexdigest()}
    (own_shards / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"index\.arrow: row 9: the mask does not lie in its shard; damaged, or of"):
        ShardReader(own_shards, on_bad_sample="skip")


def test_workers_take_an_index_as_checked(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ShardReader(shards)
    seen: list[bool] = []
    read = shard_index.read_batch
    monkeypatch.setattr(
        shard_index, "read_batch", lambda *a, trusted: seen.append(trusted) or read(*a, trusted=trusted)
    )
    monkeypatch.setattr("steel.shards.reader.rows_fault", lambda *a: pytest.fail("checked again"))
    pickle.loads(pickle.dumps(reader))
    assert seen == [True]


def write_large_index(path: Path, num: int) -> None:
    """An index of `num` rows of plausible content, written in parts."""
    generator = np.random.default_rng(0)
    schema = index_schema(4)
    rows = np.arange(num)
    names = pa.array(rows).cast(pa.string())
    columns: dict[str, pa.Array] = {}
    for field in schema:
        if field.name == "areas":
            areas = generator.integers(0, 3, num * 4, dtype=np.int32)
            columns[field.name] = pa.FixedSizeListArray.from_arrays(pa.array(areas), type=field.type)
        elif pa.types.is_string(field.type):
            columns[field.name] = names
        elif field.name in ("fold", "shard"):
            columns[field.name] = pa.array(rows % 5 if field.name == "fold" else rows // 1000).cast(field.type)
        else:
            columns[field.name] = pa.array(rows).cast(field.type)
    batch = pa.record_batch([columns[field.name] for field in schema], schema=schema)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(batch)


def test_rows_are_looked_up_alike_in_small_and_large_indexes(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Index(shards / INDEX_NAME, 3)
    monkeypatch.setattr("steel.shards.index._TABLE_ROWS", 0)
    large = pickle.loads(pickle.dumps(Index(shards / INDEX_NAME, 3)))
    assert large._table is None
    for row in range(14):
        assert small.place(row) == large.place(row)
        assert small.place(row).num_marked == np.count_nonzero(defect_mask(row))


@pytest.mark.slow
def test_ten_million_rows_open_at_once_and_stay_out_of_memory(tmp_path: Path) -> None:
    write_large_index(tmp_path / "index.arrow", 10_000_000)
    program = textwrap.dedent(
        """
        import pickle, sys, time
        import numpy as np
        from steel.shards.index import Index
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        before, start = resident(), time.perf_counter()
        index = Index(sys.argv[1], 4)
        opened = time.perf_counter() - start
        opened_size = resident() - before
        most, start = 0, time.perf_counter()
        rows = np.random.default_rng(0).integers(0, len(index), 20_000)
        for row in rows:
            place = index.place(int(row))
            assert place.image_offset == place.json_crc == place.height == row
            assert place.shard == row // 1000
            most = max(most, resident() - before)
        looked = (time.perf_counter() - start) / len(rows)
        print(opened, opened_size, most, looked, len(pickle.dumps(index)))
        """
    )
    output = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "index.arrow")], capture_output=True, text=True, check=True
    ).stdout
    opened, opened_size, most, looked, pickled = (float(v) for v in output.split())
    print(
        f"opened in {opened:.3f} s, {opened_size / 1e6:.1f} MB; then at most {most / 1e6:.1f} MB "
        f"and {looked * 1e6:.1f} us a row"
    )
    assert opened < 2
    assert most < 100e6
    assert pickled < 1000
