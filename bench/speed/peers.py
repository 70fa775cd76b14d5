"""The peers' side of each row, as tasks of a worker in the peers' environment; nothing of the project is imported."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import count, product
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import litdata
import numpy as np
import pycocotools.mask as coco
import streaming
import torch
import webdataset
from torch.utils.data import DataLoader

from bench.speed.kaggle import KaggleDataset
from bench.speed.kaggle_rle import mask_to_rle, rle_to_mask
from bench.speed.naive_writer import draw_masks, encode_png, read_table, write_shards
from bench.speed.page_cache import drop_folder
from bench.speed.strings import load_strings
from bench.speed.timing import Measure, in_child, time_passes, time_stretch, time_whole

cv2.setNumThreads(1)
_shuffles = count()


def _tars(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).glob("*.tar"))


def _permutation(length: int) -> list[int]:
    return np.random.default_rng(next(_shuffles)).permutation(length).tolist()


def _webdataset(urls: list[str], **options: Any) -> Any:
    return webdataset.WebDataset(urls, shardshuffle=False, **options)


# --- raw samples ---


def raw_webdataset(shards: str, seconds: float) -> Measure:
    """Our own tars, one after another without shuffling, which is the fastest it can."""
    return time_passes(lambda: _webdataset(_tars(shards)), seconds=seconds)


def raw_webdataset_cold(shards: str) -> Measure:
    """The same, its files not yet in the page cache."""
    return _cold(shards, lambda: _webdataset(_tars(shards)))


def _cold(folder: str, iterate: Callable[[], Iterator[Any]]) -> Measure:
    def measure() -> Measure:
        drop_folder(folder)
        return time_whole(iterate)

    return in_child(measure)


def raw_webdataset_remote(url: str, names: list[str]) -> Measure:
    """Streamed by its own `curl`; nothing is kept."""
    return in_child(lambda: time_whole(lambda: _webdataset([f"{url}/{name}" for name in names])))


def _copied(samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, bytes]]:
    """LitData hands over views of mapped files, whose pages nobody has read yet: read them, as the others do."""
    return ({name: bytes(value) for name, value in sample.items()} for sample in samples)


@cache
def _litdata(folder: str) -> Any:
    return litdata.StreamingDataset(folder, shuffle=True, max_cache_size="100GB")


def raw_litdata(folder: str, mode: str, seconds: float) -> Measure:
    """Shuffled by itself (`iterate`), so but without reading its views (`views`), or by index (`index`)."""
    dataset = _litdata(folder)
    ways: dict[str, Callable[[], Iterator[Any]]] = {
        "iterate": lambda: _copied(iter(dataset)),
        "views": lambda: iter(dataset),
        "index": lambda: _copied(dataset[i] for i in _permutation(len(dataset))),
    }
    return time_passes(ways[mode], seconds=seconds)


def raw_litdata_cold(folder: str) -> Measure:
    """Shuffled by itself, its files not yet in the page cache."""
    return _cold(folder, lambda: _copied(iter(_litdata(folder))))


def raw_litdata_remote(url: str, endpoint: str) -> Measure:
    """With `obstore`, its faster client."""
    litdata.streaming.downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    with tempfile.TemporaryDirectory() as cache_dir:

        def samples() -> Iterator[Any]:
            dataset = litdata.StreamingDataset(
                url,
                cache_dir=cache_dir,
                shuffle=True,
                storage_options={"endpoint_url": endpoint},
                max_cache_size="100GB",
                max_pre_download=8,
            )
            return _copied(iter(dataset))

        return in_child(lambda: time_whole(samples))


def _new_mosaic(**place: Any) -> Any:
    return streaming.StreamingDataset(**place, shuffle=True, batch_size=1, shuffle_algo="py1s", predownload=10_000)


_mosaic = cache(_new_mosaic)


def raw_mosaic(folder: str, mode: str, seconds: float) -> Measure:
    """Shuffled by itself (`iterate`), or by index in a random order (`index`)."""
    dataset = _mosaic(local=folder)
    ways: dict[str, Callable[[], Iterator[Any]]] = {
        "iterate": lambda: iter(dataset),
        "index": lambda: (dataset[i] for i in _permutation(len(dataset))),
    }
    return time_passes(ways[mode], seconds=seconds)


def raw_mosaic_cold(folder: str) -> Measure:
    """Shuffled by itself, its files not yet in the page cache."""
    streaming.base.util.clean_stale_shared_memory()  # which its data sets leave behind, and later ones trip over
    return _cold(folder, lambda: iter(_new_mosaic(local=folder)))


def raw_mosaic_remote(url: str, endpoint: str) -> Measure:
    """Shuffled by itself, from an S3 store, into an empty local folder."""
    os.environ["S3_ENDPOINT_URL"] = endpoint
    streaming.base.util.clean_stale_shared_memory()
    with tempfile.TemporaryDirectory() as local:
        return in_child(lambda: time_whole(lambda: iter(_new_mosaic(remote=url, local=local))))


# --- the same data in other formats ---


def fastest_png(images: str, annotations: str) -> dict[str, Any]:
    """The way of writing 4-channel PNG masks that OpenCV reads fastest: level and strategy, tried on real ones.

    The ways take turns, so that no spell of other load decides.
    """
    table = read_table(images, annotations)
    masks = [draw_masks(table.iloc[row]) for row in range(24)]
    ways = list(product((0, 1, 3, 6, 9), ("DEFAULT", "FILTERED", "HUFFMAN_ONLY", "RLE", "FIXED")))
    files = {way: [encode_png(mask, *way) for mask in masks] for way in ways}
    spent = dict.fromkeys(ways, float("inf"))
    for way in ways * 7:
        start = time.perf_counter()
        for file in files[way]:
            cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
        spent[way] = min(spent[way], (time.perf_counter() - start) / len(masks))
    level, strategy = min(ways, key=spent.__getitem__)
    return {"level": level, "strategy": strategy, "milliseconds": spent[level, strategy] * 1e3}


def write_webdataset(images: str, annotations: str, out: str, shard_size: int, level: int, strategy: str) -> None:
    """Untouched JPEG files and 4-channel PNG masks."""
    table = read_table(images, annotations)
    Path(out).mkdir(parents=True)
    with webdataset.ShardWriter(f"{out}/%06d.tar", maxcount=shard_size, verbose=0) as writer:
        for row in _permutation(len(table)):
            name = table.index[row]
            mask = encode_png(draw_masks(table.iloc[row]), level, strategy)
            writer.write({"__key__": Path(name).stem, "jpg": Path(images, name).read_bytes(), "mask.png": mask})


def _stored(shards: str) -> list[dict[str, bytes]]:
    """The bytes of all samples of our tars, which the other formats store too."""
    return [{"image": s["jpg"], "mask": s["mask.png"], "meta": s["json"]} for s in _webdataset(_tars(shards))]


def _nth(samples: list[dict[str, bytes]], index: int) -> dict[str, bytes]:
    return samples[index]


def write_litdata(shards: str, out: str, shard_size: int) -> None:
    """Write the samples of our tars in LitData's format, `shard_size` images per chunk."""
    samples = _stored(shards)
    litdata.optimize(
        fn=partial(_nth, samples),
        inputs=list(range(len(samples))),
        output_dir=out,
        chunk_size=shard_size,
        num_workers=1,
        start_method="fork",
        verbose=False,
    )


def write_mosaic(shards: str, out: str, shard_size: int) -> None:
    """Write the samples of our tars in mosaicml-streaming's format, about `shard_size` images per shard."""
    samples = _stored(shards)
    size = sum(len(value) + 4 for sample in samples for value in sample.values()) * shard_size // len(samples)
    columns = dict.fromkeys(samples[0], "bytes")
    with streaming.MDSWriter(out=out, columns=columns, size_limit=size) as writer:
        for sample in samples:
            writer.write(sample)


# --- decoded samples and batches ---


def _decode(sample: dict[str, Any], gray: bool) -> tuple[np.ndarray, np.ndarray]:
    how = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR
    image = cv2.imdecode(np.frombuffer(sample["jpg"], np.uint8), how)
    mask = cv2.imdecode(np.frombuffer(sample["mask.png"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None and mask is not None
    return image, mask


def decode_webdataset(tars: str, gray: bool, seconds: float) -> Measure:
    """Image and mask decoded by OpenCV, in this process."""
    decode = partial(_decode, gray=gray)
    return time_passes(lambda: _webdataset(_tars(tars)).map(decode), seconds=seconds)


class _Augment:
    """Decodes, crops and augments; uint8 all the way."""

    def __init__(self, crop: list[int], gray: bool) -> None:
        self.gray = gray
        steps = [A.RandomCrop(*crop), A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
        self.compose = A.Compose([*steps, A.RandomBrightnessContrast(p=0.5)])

    def __call__(self, sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        image, mask = _decode(sample, self.gray)
        result = self.compose(image=image, mask=mask)
        return result["image"], result["mask"]


def _collate(samples: list[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tensors, which go to the main process through shared memory; arrays would be pickled."""
    images, masks = zip(*samples, strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))


def batches_webdataset(
    tars: str, crop: list[int], batch_size: int, workers: int, num_samples: int, gray: bool
) -> Measure:
    """Shards shuffled, a buffer of samples shuffled, decoded after the buffer, batches made in the workers."""
    urls = _tars(tars)
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls)).repeat().shuffle(100, initial=100)
    dataset = dataset.map(_Augment(crop, gray)).batched(batch_size, collation_fn=_collate)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=4, worker_init_fn=_one_thread)
    return _time_loader(loader, batch_size, num_samples)


def batches_kaggle(
    images: str, annotations: str, crop: list[int], batch_size: int, workers: int, num_samples: int
) -> Measure:
    """As the competition's notebooks do it: image files, run lengths decoded per sample, PyTorch's loader."""
    dataset = KaggleDataset(images, annotations, crop)
    loader: DataLoader = DataLoader(
        torch.utils.data.ConcatDataset([dataset] * 8),  # several epochs in one, so that the workers go on
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        prefetch_factor=4,
        worker_init_fn=_one_thread,
    )
    return _time_loader(loader, batch_size, num_samples)


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)


def _time_loader(loader: DataLoader, batch_size: int, num_samples: int) -> Measure:
    batches = iter(loader)
    measure = time_stretch(batches, batch_size=batch_size, skip=8, count=num_samples // batch_size)
    batches._shutdown_workers()  # type: ignore[attr-defined]
    return measure


# --- run lengths ---


def rle_decode_kaggle(csv: str, num_strings: int, seconds: float) -> Measure:
    """As the competition's notebooks do it."""
    strings = load_strings(csv, num_strings)
    return time_passes(lambda: (rle_to_mask(text) for text in strings), seconds=seconds)


def rle_encode_kaggle(csv: str, num_strings: int, seconds: float) -> Measure:
    """As the competition's notebooks do it."""
    masks = _row_major_masks(csv, num_strings)
    return time_passes(lambda: (mask_to_rle(mask) for mask in masks), seconds=seconds)


def rle_decode_coco(csv: str, num_strings: int, seconds: float) -> Measure:
    """From its own compressed text, to its own column-major mask."""
    texts = [coco.encode(np.asfortranarray(mask)) for mask in _row_major_masks(csv, num_strings)]
    return time_passes(lambda: (coco.decode(text) for text in texts), seconds=seconds)


def rle_encode_coco(csv: str, num_strings: int, column_major: bool, seconds: float) -> Measure:
    """To its own compressed text; `column_major` spares it the turning of the mask, which a network's output needs."""
    masks = _row_major_masks(csv, num_strings)
    if column_major:
        turned = [np.asfortranarray(mask) for mask in masks]
        return time_passes(lambda: (coco.encode(mask) for mask in turned), seconds=seconds)
    return time_passes(lambda: (coco.encode(np.asfortranarray(mask)) for mask in masks), seconds=seconds)


def _row_major_masks(csv: str, num_strings: int) -> list[np.ndarray]:
    return [np.ascontiguousarray(rle_to_mask(text)) for text in load_strings(csv, num_strings)]


# --- writing shards ---


def prepare(images: str, annotations: str, out: str, shard_size: int, workers: int) -> Measure:
    """The naive script, with its pool of processes."""
    measure = time_whole(lambda: range(write_shards(images, annotations, out, shard_size, workers)))
    shutil.rmtree(out)
    return measure


def versions() -> dict[str, str]:
    """Of everything measured here."""
    from importlib.metadata import version

    names = ("litdata", "mosaicml-streaming", "webdataset", "albumentations", "pycocotools", "pandas", "torch")
    found = {name: version(name) for name in (*names, "numpy", "opencv-python-headless")}
    curl = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    return {"python": sys.version.split()[0], **found, "curl": curl}
