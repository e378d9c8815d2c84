from __future__ import annotations

import pytest

from hf_dinoseg.visualize.fonts import fitting, label_font


@pytest.mark.parametrize("letter", "ßÅØßłčğΩЖ…→×²")
def test_letters_of_names_are_drawn(letter: str) -> None:
    """A letter that a font lacks is drawn as its box, as one that no font has is."""
    font = label_font(20)
    assert bytes(font.getmask(letter)) != bytes(font.getmask("\U0010ffff"))


def test_a_long_name_is_cut_to_its_room() -> None:
    font = label_font(16)
    cut = fitting("patient 17, left eye", font, 80)
    assert cut.endswith("…") and "patient".startswith(cut[:4]) and font.getlength(cut) <= 80
    assert fitting("left", font, 80) == "left"
