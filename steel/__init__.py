"""Steel-surface defect models: from raw line-camera images to one checkpoint file."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from steel.startup import uncollected

if TYPE_CHECKING:
    from steel.decision import ClassDecision, Decision
    from steel.errors import InputError
    from steel.inference.load import load_predictor
    from steel.inference.onnx_predictor import OnnxPredictor
    from steel.inference.prediction import Prediction, Region
    from steel.inference.predictor import Predictor

__version__ = "0.1.0"
__all__ = [
    "ClassDecision",
    "Decision",
    "InputError",
    "OnnxPredictor",
    "Prediction",
    "Predictor",
    "Region",
    "__version__",
    "load_predictor",
]
_HOMES = {
    "ClassDecision": "steel.decision",
    "Decision": "steel.decision",
    "InputError": "steel.errors",
    "OnnxPredictor": "steel.inference.onnx_predictor",
    "Prediction": "steel.inference.prediction",
    "Predictor": "steel.inference.predictor",
    "Region": "steel.inference.prediction",
    "load_predictor": "steel.inference.load",
}


def __getattr__(name: str) -> Any:
    """Import what is public on first use: the base install, and everything that only reads or scores, has no torch."""
    if name in _HOMES:
        try:
            with uncollected():
                return getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            other = "; steel.load_predictor takes an exported graph without it" if name == "Predictor" else ""
            raise ImportError(
                f"steel.{name} needs torch: pip install 'steel-defects[train]'{other}", name="torch"
            ) from None
    raise AttributeError(f"module 'steel' has no attribute {name!r}")
