"""What a log entry of training says beside the loss: its terms, images per second, and memory of the device."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class StepLog:
    """Sums what batches report, from one log entry to the next.

    Args:
        device: where the model is.
        accumulation_steps: batches that make one step, on each process.
        processes: that train.
    """

    def __init__(self, device: torch.device, accumulation_steps: int, processes: int) -> None:
        self.device = device
        self.accumulation_steps, self.processes = accumulation_steps, processes
        self._terms: dict[str, Tensor | float] = {}
        self._batches = self._images = 0
        self._since: float | None = None

    def start(self) -> None:
        """Images per second are counted from the first time this is called."""
        self._since = self._since or time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens within it is no training: an evaluation, a checkpoint, the log itself."""
        began = time.perf_counter()
        yield
        if self._since is not None:
            now = time.perf_counter()
            self._since = now if self._since > began else self._since + now - began

    def add(self, terms: Mapping[str, Tensor | float], images: int) -> None:
        """A batch of so many images had these terms of the loss. Tensors stay on their device until `entries`."""
        for name, term in terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + (term.detach() if torch.is_tensor(term) else term)
        self._batches += 1
        self._images += images

    def entries(self) -> dict[str, float]:
        """What to log since the last call. Loss terms are means over steps, each summed over the predictions of all
        layers. `images_per_second` is of all processes and includes waiting for data. `gpu_memory_gb` is the peak of
        tensors on this process's device so far, in 10⁹ bytes, if the device counts it."""
        if not self._batches:
            return {}
        steps = self._batches / self.accumulation_steps
        logs = {name: round(float(term) / steps, 4) for name, term in self._terms.items() if name != "loss"}
        if self._since is not None:
            now = time.perf_counter()
            logs["images_per_second"] = round(self._images * self.processes / max(now - self._since, 1e-9), 2)
            self._since = now
        counter: Any = getattr(torch.get_device_module(self.device), "max_memory_allocated", None)
        if counter is not None:
            logs["gpu_memory_gb"] = round(counter(self.device) / 1e9, 3)
        self._terms, self._batches, self._images = {}, 0, 0
        return logs
