"""The rows of reading samples: cold, from a store, and warm."""

from bench.speed.dataset import Dataset
from bench.speed.row import Row, Side, Where

DELAY = 0.02
"""Seconds added to each request to the remote store."""


def read_rows(data: Dataset, endpoint: str, bucket: str) -> list[Row]:
    """Of the data set, and of its folder `bucket` in the slow store at `endpoint`."""
    folders = {name: {"folder": data.folder(name)} for name in ("litdata", "mosaic")}
    shards = {"shards": data.folder("ours")}
    return [
        _cold_reads(shards, folders["litdata"], folders["mosaic"]),
        _remote_reads(data, endpoint, bucket),
        _warm_reads(shards, folders["litdata"], folders["mosaic"]),
    ]


def _cold_reads(shards: Where, lit: Where, mosaic: Where) -> Row:
    return Row(
        "raw-cold",
        "shuffled raw reads, cold cache",
        "samples/s",
        (
            Side(
                "shard reader, read ahead, lengths checked",
                "ours",
                "raw_cold",
                shards | {"verify": False},
                remark="as the peers, which verify no checksum",
            ),
            Side("webdataset, sequential", "peers", "raw_webdataset_cold", shards, 1.0),
            Side("LitData, shuffle", "peers", "raw_litdata_cold", lit, 1.0),
            Side("mosaicml-streaming, shuffle", "peers", "raw_mosaic_cold", mosaic, 1.0),
            Side(
                "shard reader, read ahead, checksums verified",
                "ours",
                "raw_cold",
                shards | {"verify": True},
                remark="what training does",
            ),
        ),
        times=3,  # the disk's speed varies
    )


def _remote_reads(data: Dataset, endpoint: str, bucket: str) -> Row:
    remote = {"endpoint": endpoint}
    return Row(
        "raw-remote",
        f"shuffled raw reads from a store, {DELAY * 1e3:.0f} ms added per request, empty cache",
        "samples/s",
        (
            Side(
                "shard reader with its cache, http, checksums verified",
                "ours",
                "raw_remote",
                {"url": f"{endpoint}/{bucket}/ours"} | remote,
            ),
            Side(
                "webdataset, sequential, http by curl",
                "peers",
                "raw_webdataset_remote",
                {"url": f"{endpoint}/{bucket}/ours", "names": data.shard_names},
                1.0,
                remark="keeps no copy: every epoch costs the same",
            ),
            Side(
                "LitData, shuffle, obstore",
                "peers",
                "raw_litdata_remote",
                {"url": f"s3://{bucket}/litdata"} | remote,
                1.0,
            ),
            Side(
                "mosaicml-streaming, shuffle",
                "peers",
                "raw_mosaic_remote",
                {"url": f"s3://{bucket}/mosaic"} | remote,
                1.0,
            ),
            Side(
                "shard reader with its cache, s3, checksums verified",
                "ours",
                "raw_remote",
                {"url": f"s3://{bucket}/ours"} | remote,
                remark="making an S3 client takes s3fs a third of a second, once a run",
            ),
        ),
    )


def _warm_reads(shards: Where, lit: Where, mosaic: Where) -> Row:
    short = {"seconds": 0.4}
    return Row(
        "raw-warm",
        "shuffled raw reads, warm cache",
        "samples/s",
        (
            Side(
                "shard reader, lengths checked",
                "ours",
                "raw_warm",
                shards | short | {"verify": False},
                remark="as the peers, which verify no checksum",
            ),
            Side("webdataset, sequential", "peers", "raw_webdataset", shards | short, 8.0),
            Side("LitData, shuffle", "peers", "raw_litdata", lit | short | {"mode": "iterate"}, 1.5),
            Side("LitData, by index", "peers", "raw_litdata", lit | short | {"mode": "index"}, remark="random access"),
            Side(
                "LitData, shuffle, views",
                "peers",
                "raw_litdata",
                lit | short | {"mode": "views"},
                remark="hands over mapped memory that nobody has read",
            ),
            Side("mosaicml-streaming, shuffle", "peers", "raw_mosaic", mosaic | short | {"mode": "iterate"}, 5.0),
            Side(
                "mosaicml-streaming, by index",
                "peers",
                "raw_mosaic",
                mosaic | short | {"mode": "index"},
                remark="random access, no shuffle of its own",
            ),
            Side(
                "os.pread of the same bytes, nothing else",
                "ours",
                "raw_copy",
                shards | short | {"mapped": False},
                remark="the kernel's copy alone: the bound of readers by system call",
            ),
            Side(
                "slices of mapped files, nothing else",
                "ours",
                "raw_copy",
                shards | short | {"mapped": True},
                remark="one copy alone: the bound of all readers that copy; a failing disk kills their process",
            ),
            Side(
                "shard reader, checksums verified",
                "ours",
                "raw_warm",
                shards | short | {"verify": True},
                remark="what training does",
            ),
        ),
    )
