"""Steel-surface defect models: from raw line-camera images to one checkpoint file."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steel.inference.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `Predictor` on first use: the base install, and everything that only reads or scores, has no torch."""
    if name == "Predictor":
        from steel.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'steel' has no attribute {name!r}")
