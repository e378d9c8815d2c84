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

#: card → its recipe, what of it was otherwise when the run was measured, and an image of this repository; images of
#: datasets are not in it
CARDS: dict[str, tuple[str, list[str], str | None]] = {
    "camvid_mask2former_tiny": ("camvid/mask2former_tiny.yaml", ["loss.num_points=3136"], None),
    "synthetic_retina_mask2former_tiny": ("synthetic_retina/mask2former_tiny.yaml", [], "../docs/quickstart.png"),
}


#: what a reader of the figures must know beside what the code can tell
NOTES = {
    "camvid_mask2former_tiny": "The validation images come from the same drives as the training images; on other "
    "drives such a model is worse: see [recipes/](../recipes/README.md#camvidmask2former_tiny).",
}


def render(name: str) -> str:
    path, overrides, panel = CARDS[name]
    recipe = load_recipe(RECIPES / path, overrides)
    metrics = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    card = model_card(recipe.labels.to_dict(), metrics, recipe.to_dict(), panel=panel)
    return card.replace("\n## How to use", f"\n{NOTES[name]}\n\n## How to use", 1) if name in NOTES else card


def main(runs: list[str]) -> None:
    for run in map(Path, runs):
        written = (run / "metrics.json").read_text(encoding="utf-8")
        (HERE / f"{run.resolve().name}.json").write_text(written, encoding="utf-8")
    for name in CARDS:
        (HERE / f"{name}.md").write_text(render(name), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
