"""Where pictures and masks come from, one file a source. Every source gives the same three columns: `id`, `image`,
`mask`.

`image` and `mask` stay files (paths or encoded bytes); `masks.py` opens them. A new layout of files starts here.
"""

from .folder import load_folder
from .retina import load_synthetic_retina
from .rows import FEATURES

__all__ = ["FEATURES", "load_folder", "load_synthetic_retina"]
