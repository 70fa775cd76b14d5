"""What a training program says on the screen: rank 0's messages, on stderr, above the line that lives there."""

import logging
import sys

from steel.distributed.runtime import launcher_rank
from train.live_line import AboveTheLine

_NOISY = ("wandb", "urllib3", "httpx", "accelerate", "timm", "torch", "matplotlib", "PIL", "fsspec", "s3fs", "botocore")


def set_up_logging() -> None:
    """Show messages of rank 0, and errors of all ranks."""
    level = logging.INFO if launcher_rank() == 0 else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", handlers=[AboveTheLine(sys.stderr)], force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
