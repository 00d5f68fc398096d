"""sartransfer: which pretrained start works best on your radar images, by how much, and is that certain?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sartransfer.comparison import compare
    from sartransfer.mapping import predict_scene
    from sartransfer.models import build_model
    from sartransfer.readers import open_scene
    from sartransfer.recipe import Recipe
    from sartransfer.scene import Band, Scene, Window

_HOMES = {
    "Band": "scene",
    "Recipe": "recipe",
    "Scene": "scene",
    "Window": "scene",
    "build_model": "models",
    "compare": "comparison",
    "open_scene": "readers",
    "predict_scene": "mapping",
}

__all__ = [
    "Band",
    "Recipe",
    "Scene",
    "Window",
    "__version__",
    "build_model",
    "compare",
    "open_scene",
    "predict_scene",
]


def __getattr__(name: str) -> Any:
    # Looked up on first use: `import sartransfer` alone must not load torch, nor `open_scene` Lightning.
    if name in _HOMES:
        return getattr(import_module(f"sartransfer.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sartransfer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
