"""Choices that several verbs offer."""

from __future__ import annotations

from enum import Enum


class Palette(str, Enum):
    dataset = "dataset"
    colorblind = "colorblind"


__all__ = ["Palette"]
