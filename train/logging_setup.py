"""What a training program says on the screen: rank 0's messages, on stderr."""

import logging
import sys

from steel.distributed.runtime import launcher_rank

_NOISY = ("wandb", "urllib3", "httpx", "accelerate", "timm", "torch", "matplotlib", "PIL", "fsspec", "s3fs", "botocore")


def set_up_logging() -> None:
    """Show messages of rank 0, and errors of all ranks."""
    level = logging.INFO if launcher_rank() == 0 else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
