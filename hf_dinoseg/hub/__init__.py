"""What a checkpoint needs to be shared."""

from __future__ import annotations

from .card import default_license, model_card

__all__ = ["default_license", "model_card"]
