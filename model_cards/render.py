"""Write the cards of this folder again: `python model_cards/render.py [RUN_FOLDER …]`

Each card is what the code makes of a recipe of `recipes/` and of a run's metrics.json, which lies beside the card under
the card's name. A run folder that is named brings its metrics along.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hf_dinoseg import load_recipe
from hf_dinoseg.hub import model_card

HERE = Path(__file__).parent
RECIPES = HERE.parent / "recipes"

#: card → its recipe, and an image of this repository; images of datasets are not in it
CARDS = {
    "camvid_mask2former_tiny": ("camvid/mask2former_tiny.yaml", None),
    "synthetic_retina_mask2former_tiny": ("synthetic_retina/mask2former_tiny.yaml", "../docs/quickstart.png"),
}


def render(name: str) -> str:
    recipe = load_recipe(RECIPES / CARDS[name][0])
    metrics = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return model_card(recipe.labels.to_dict(), metrics, recipe.to_dict(), panel=CARDS[name][1])


def main(runs: list[str]) -> None:
    for run in map(Path, runs):
        written = (run / "metrics.json").read_text(encoding="utf-8")
        (HERE / f"{run.resolve().name}.json").write_text(written, encoding="utf-8")
    for name in CARDS:
        (HERE / f"{name}.md").write_text(render(name), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
