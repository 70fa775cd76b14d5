"""What the public kernels of the Severstal competition do, as one of the peers: their data set.

Written anew after the form most of them share: a table of texts with a row per image and a column per class; float
masks; albumentations; float tensors.
"""

from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.pytorch import ToTensorV2
from torch.utils.data import Dataset

from bench.speed.kaggle_rle import rle_to_mask
from bench.speed.naive_writer import read_table
from bench.speed.strings import HEIGHT, WIDTH


class KaggleDataset(Dataset):
    """Loose JPEG files and a table of run-length texts."""

    def __init__(self, images: str, annotations: str, crop: list[int]) -> None:
        self.images = Path(images)
        self.table = read_table(images, annotations)
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
