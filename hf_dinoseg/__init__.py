"""Fine-tune DINOv3 for semantic segmentation with the Hugging Face Trainer.

Once the package is imported, transformers' Auto classes and pipelines know its model: at once if transformers is
imported already, else as soon as it is. transformers has no list of plug-ins to be entered in, and loading it here
would cost `dinoseg --help` seconds; hence the finder below, which loads nothing itself and is gone after its one use.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .errors import DinoSegError
    from .hub.push import push
    from .inference import Segmenter
    from .labels import LabelSpace
    from .models import DinoSegConfig, DinoSegForSemanticSegmentation, DinoSegImageProcessor
    from .recipe import Recipe, load_recipe
    from .run import check, evaluate, train
    from .training import DinoSegTrainer

_LATER = {
    "DinoSegError": ".errors",
    "DinoSegConfig": ".models",
    "DinoSegForSemanticSegmentation": ".models",
    "DinoSegImageProcessor": ".models",
    "DinoSegTrainer": ".training",
    "LabelSpace": ".labels",
    "Recipe": ".recipe",
    "Segmenter": ".inference",
    "check": ".run",
    "evaluate": ".run",
    "load_recipe": ".recipe",
    "push": ".hub.push",
    "train": ".run",
}

__all__ = [
    "DinoSegConfig",
    "DinoSegError",
    "DinoSegForSemanticSegmentation",
    "DinoSegImageProcessor",
    "DinoSegTrainer",
    "LabelSpace",
    "Recipe",
    "Segmenter",
    "__version__",
    "check",
    "evaluate",
    "load_recipe",
    "push",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Registration(MetaPathFinder):
    """Lets `import transformers` load `models` behind it, which registers them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "transformers":
            return None
        others = (finder.find_spec for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (find(fullname, path, target) for find in others)), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                import_module(".models", __name__)

            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


if "transformers" in sys.modules:
    import_module(".models", __name__)
else:
    sys.meta_path.insert(0, _Registration())
