"""Every row of the table: what is measured, on which sides, and what is to be reached."""

from pathlib import Path

from bench.speed.dataset import SHARD_SIZE, Dataset
from bench.speed.read_rows import read_rows
from bench.speed.row import Row, Side

CROP = [256, 512]
BATCH_SIZE = 16
WORKERS = 2
NUM_STRINGS = 300


def table(data: Dataset, *, endpoint: str, bucket: str, rle_csv: str, num_samples: int, has_gpu: bool) -> list[Row]:
    """All rows.

    Args:
        data: the data set.
        endpoint: URL of the slow store.
        bucket: the data set's folder in it.
        rle_csv: masks for the RLE rows.
        num_samples: a repeat of the training rows.
        has_gpu: what belongs on one runs there.
    """
    return [
        *read_rows(data, endpoint, bucket),
        *_decoding(data),
        *_batches(data, num_samples),
        *_run_lengths(rle_csv),
        *_statistics(has_gpu=has_gpu),
        _writing(data),
    ]


def row_names() -> list[str]:
    """Of all rows, whatever they are measured on."""
    rows = table(Dataset(Path()), endpoint="", bucket="", rle_csv="", num_samples=0, has_gpu=False)
    return [row.name for row in rows]


def _decoding(data: Dataset) -> list[Row]:
    ours = {"shards": data.folder("ours"), "seconds": 0.7}
    tars = {"tars": data.folder("webdataset"), "seconds": 0.7}
    return [
        Row(
            "decode",
            "image + mask decode, one process",
            "samples/s",
            (
                Side("shard reader", "ours", "decode", ours),
                Side("webdataset + cv2, colour", "peers", "decode_webdataset", tars | {"gray": False}, 1.8),
                Side(
                    "webdataset + cv2, gray",
                    "peers",
                    "decode_webdataset",
                    tars | {"gray": True},
                    1.8,
                    "for those who know that R = G = B",
                ),
            ),
        ),
        Row(
            "decode-cost",
            "sample decode over its JPEG alone",
            "samples/s",
            (
                Side("shard reader, image + mask", "ours", "decode", ours),
                Side("cv2, the gray JPEG alone", "ours", "decode_jpegs", ours, 1.5, "bytes at hand, no reading"),
            ),
            at_most=True,
        ),
        Row(
            "decoded",
            "decoded samples from the node's disk, warm, one process",
            "samples/s",
            (
                Side("decoded cache, image and mask copied", "ours", "decoded", ours | {"crop": None}),
                Side("shard reader, decoding", "ours", "decode", ours, 5.0),
                Side("decoded cache, crops of 256x512 copied", "ours", "decoded", ours | {"crop": CROP}),
                Side(
                    "decoded cache, cold: every sample decoded and written",
                    "ours",
                    "decoded_first",
                    {"shards": data.folder("ours")},
                ),
            ),
        ),
    ]


def _batches(data: Dataset, num_samples: int) -> list[Row]:
    how = {"crop": CROP, "batch_size": BATCH_SIZE, "workers": WORKERS, "num_samples": num_samples}
    ours = {"shards": data.folder("ours")} | how
    tars = {"tars": data.folder("webdataset")} | how
    loose = {"images": data.images, "annotations": data.annotations} | how | {"num_samples": num_samples // 2}
    return [
        Row(
            "batches",
            f"{WORKERS}-worker training batches, crops of {CROP[0]}x{CROP[1]}, flips, brightness and contrast",
            "samples/s",
            (
                Side(
                    "train_batches", "ours", "batches", ours | {"focused": False}, remark="uniform crops, as the peers"
                ),
                Side(
                    "webdataset + albumentations, uint8, colour",
                    "peers",
                    "batches_webdataset",
                    tars | {"gray": False},
                    2.0,
                ),
                Side(
                    "webdataset + albumentations, uint8, gray",
                    "peers",
                    "batches_webdataset",
                    tars | {"gray": True},
                    2.0,
                ),
                Side("loose JPEG + pandas RLE + albumentations, float32", "peers", "batches_kaggle", loose, 4.0),
                Side(
                    "train_batches, half of the crops on defects",
                    "ours",
                    "batches",
                    ours | {"focused": True},
                    remark="what training does",
                ),
            ),
        ),
        Row(
            "decoded-batches",
            "the same batches of ours, half of the crops on defects, from the node's disk, warm",
            "samples/s",
            (
                Side("train_batches, decoded cache", "ours", "batches", ours | {"focused": True, "held": True}),
                Side("train_batches, decoding", "ours", "batches", ours | {"focused": True}),
            ),
        ),
    ]


def _run_lengths(rle_csv: str) -> list[Row]:
    how = {"csv": rle_csv, "num_strings": NUM_STRINGS, "seconds": 0.3}
    return [
        Row(
            "rle-decode",
            "RLE decode",
            "masks/s",
            (
                Side("decode_rle", "ours", "rle_decode", how),
                Side("Kaggle kernels' numpy", "peers", "rle_decode_kaggle", how, 2.0),
                Side("pycocotools", "peers", "rle_decode_coco", how, 1.0, "its own compressed text and layout"),
            ),
        ),
        Row(
            "rle-encode",
            "RLE encode to text",
            "masks/s",
            (
                Side("encode_rle", "ours", "rle_encode", how),
                Side("Kaggle kernels' numpy", "peers", "rle_encode_kaggle", how, 2.0),
                Side(
                    "pycocotools",
                    "peers",
                    "rle_encode_coco",
                    how | {"column_major": False},
                    1.0,
                    "to its own compressed text, from the same row-major masks",
                ),
                Side(
                    "pycocotools, masks column-major already",
                    "peers",
                    "rle_encode_coco",
                    how | {"column_major": True},
                    remark="half of the work done beforehand",
                ),
            ),
        ),
    ]


def _statistics(*, has_gpu: bool) -> list[Row]:
    """An image may take 1.4 ms of a core, and 0.4 ms where the probabilities are on a GPU."""
    kinds = {"sure": "a sure network", "unsure": "an unsure network", "untrained": "an untrained network"}
    return [
        Row(
            f"statistics-{kind}",
            f"histograms of the probabilities of {words}: 256x1600, 4 classes, one core",
            "images/s",
            (
                Side("image_statistics", "ours", "statistics", how, most_ms=1.4),
                Side(
                    "the CPU's part where a GPU counts",
                    "ours",
                    "statistics_host",
                    how,
                    most_ms=0.4,
                    remark="the truth laid out by a loader process, the counts taken over",
                ),
                Side("cv2.calcHist, all pixels and those of the class", "ours", "statistics_masked", how, 1.0),
                Side("np.bincount of probability and truth", "ours", "statistics_bincount", how, 1.0),
                Side(
                    "histograms_on_device",
                    "ours",
                    "statistics_device",
                    how,
                    most_ms=0.4 if has_gpu else None,
                    remark="what is taken where the network is on a GPU"
                    + ("" if has_gpu else "; without one it runs on the CPU here, and at most 0.4 ms: *not measured*"),
                ),
            ),
        )
        for kind, words in kinds.items()
        for how in ({"kind": kind, "seconds": 0.4},)
    ]


def _writing(data: Dataset) -> Row:
    how = {"images": data.images, "annotations": data.annotations, "shard_size": SHARD_SIZE, "workers": WORKERS}
    return Row(
        "prepare",
        f"data_prep, {WORKERS} processes",
        "images/s",
        (
            Side(
                "data_prep, whole job",
                "ours",
                "prepare",
                how | {"out": data.folder("out-ours")},
                remark="with checksums, duplicates, folds, index",
            ),
            Side(
                "naive ShardWriter loop",
                "peers",
                "prepare",
                how | {"out": data.folder("out-naive")},
                3.0,
                "cv2: JPEG at quality 95, 4-channel PNG masks at level 1",
            ),
        ),
    )
