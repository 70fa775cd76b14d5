"""Which pixels show the strip: beside it, a line camera sees black."""

import numpy as np

BLACK_LEVEL = 10
"""The highest gray value that counts as black."""


def is_black(gray: np.ndarray) -> np.ndarray:
    """Where gray pixels of uint8, of any shape, lie beside the strip; bool."""
    return gray <= BLACK_LEVEL
