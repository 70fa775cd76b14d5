"""What the public kernels of the Severstal competition do, as one of the peers: their RLE functions and data set.

Written anew after the form most of them share: runs drawn one by one into a column-major array; a table of texts with
a row an image and a column a class; float masks; albumentations; float tensors.
"""

from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pandas as pd
from albumentations.pytorch import ToTensorV2
from torch.utils.data import Dataset

from bench.speed.strings import HEIGHT, WIDTH


def rle_to_mask(text: str, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Mask (H, W) uint8 of 0 and 1."""
    words = text.split()
    starts, lengths = (np.asarray(part, dtype=int) for part in (words[0::2], words[1::2]))
    starts -= 1
    mask = np.zeros(height * width, dtype=np.uint8)
    for start, end in zip(starts, starts + lengths, strict=True):
        mask[start:end] = 1
    return mask.reshape(height, width, order="F")


def mask_to_rle(mask: np.ndarray) -> str:
    """Run-length text of a mask (H, W) of 0 and 1."""
    pixels = np.concatenate([[0], mask.T.flatten(), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(number) for number in runs)


class KaggleDataset(Dataset):
    """Loose JPEG files and a table of run-length texts."""

    def __init__(self, images: str, annotations: str, crop: list[int]) -> None:
        self.images = Path(images)
        table = pd.read_csv(annotations).pivot(index="ImageId", columns="ClassId", values="EncodedPixels")
        self.table = table.reindex(sorted(path.name for path in self.images.iterdir()))
        self.transforms = A.Compose(
            [
                A.RandomCrop(*crop),
                A.HorizontalFlip(p=0.5),
                A.VerticalFlip(p=0.5),
                A.RandomBrightnessContrast(p=0.5),
                A.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
                ToTensorV2(),
            ]
        )

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self.table.iloc[index]
        masks = np.zeros((HEIGHT, WIDTH, 4), dtype=np.float32)
        for channel, text in enumerate(row.values):
            if isinstance(text, str):
                masks[:, :, channel] = rle_to_mask(text)
        image = cv2.imread(str(self.images / row.name))
        augmented = self.transforms(image=image, mask=masks)
        return augmented["image"], augmented["mask"].permute(2, 0, 1)
