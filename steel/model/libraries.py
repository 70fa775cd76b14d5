"""segmentation-models-pytorch and timm, imported without what they would import and nothing here uses.

torchvision asks torch's compiler one thing, for one of its operators, and imports all of it for that; timm looks for
wandb for a writer of tables. Together they are half of the time that `steel predict` takes to start. Whoever compiles
or tracks imports both as ever: what stands in for them is gone when this module has been imported.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from steel.startup import uncollected

_COMPILER = "torch._dynamo"


@contextmanager
def _stood_in() -> Iterator[None]:
    """Stand in for the compiler and hide wandb, where they have not been imported already."""
    places: dict[str, ModuleType | None] = {"wandb": None, _COMPILER: _compiler(), f"{_COMPILER}.utils": _utils()}
    if _COMPILER in sys.modules:
        del places[_COMPILER], places[f"{_COMPILER}.utils"]
    ours = {name: module for name, module in places.items() if name not in sys.modules}
    sys.modules.update(ours)  # type: ignore[arg-type]  # None is how Python hides a module
    try:
        yield
    finally:
        for name in ours:
            del sys.modules[name]


def _compiler() -> ModuleType:
    module = ModuleType(_COMPILER)
    module.__path__ = []
    module.__dict__["disable"] = _leave_alone
    return module


def _leave_alone(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
    """`torch.compiler.disable` on functions of networks that smp does not offer."""
    return function


def _utils() -> ModuleType:
    def is_compile_supported(device_type: str) -> Any:
        from torch._dynamo.utils import is_compile_supported

        return is_compile_supported(device_type)

    module = ModuleType(f"{_COMPILER}.utils")
    module.__dict__["is_compile_supported"] = is_compile_supported
    return module


with uncollected(), _stood_in():
    import segmentation_models_pytorch as smp
    import timm

__all__ = ["smp", "timm"]
