"""The sharding script that one writes in an hour, as a peer: every process reads, draws masks, encodes both again."""

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import webdataset

from bench.speed.kaggle_rle import rle_to_mask
from bench.speed.strings import HEIGHT, WIDTH


def read_table(images: str, annotations: str) -> pd.DataFrame:
    """Run-length texts, a row per image of the folder and a column per class."""
    table = pd.read_csv(annotations).pivot(index="ImageId", columns="ClassId", values="EncodedPixels")
    return table.reindex(sorted(path.name for path in Path(images).iterdir()))


def draw_masks(row: Any) -> np.ndarray:
    """Four channels of 0 and 255."""
    masks = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    for channel, text in enumerate(row.values):
        if isinstance(text, str):
            masks[:, :, channel] = rle_to_mask(text) * 255
    return masks


def encode_png(mask: np.ndarray, level: int, strategy: str) -> bytes:
    """By OpenCV, at a level of 0 to 9 and one of its strategies."""
    how = [cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_STRATEGY]
    how.append(getattr(cv2, f"IMWRITE_PNG_STRATEGY_{strategy}"))
    done, data = cv2.imencode(".png", mask, how)
    assert done
    return data.tobytes()


def write_shards(images: str, annotations: str, out: str, shard_size: int, workers: int) -> int:
    """Write all images of a folder; returns their number."""
    shutil.rmtree(out, ignore_errors=True)
    Path(out).mkdir(parents=True)
    work = partial(_write_part, images, annotations, out, shard_size, workers)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return sum(pool.map(work, range(workers)))


def _write_part(images: str, annotations: str, out: str, shard_size: int, workers: int, part: int) -> int:
    cv2.setNumThreads(1)
    table = read_table(images, annotations)[part::workers]
    with webdataset.ShardWriter(f"{out}/{part}-%06d.tar", maxcount=shard_size, verbose=0) as writer:
        for name, row in table.iterrows():
            pixels = cv2.imread(str(Path(images, name)))
            assert pixels is not None
            jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            mask = encode_png(draw_masks(row), 1, "DEFAULT")
            meta = {"classes": [k + 1 for k, text in enumerate(row.values) if isinstance(text, str)]}
            writer.write({"__key__": Path(name).stem, "jpg": jpeg, "mask.png": mask, "json": meta})
    return len(table)
