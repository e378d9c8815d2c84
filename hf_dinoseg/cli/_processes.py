"""Several processes that share the work of a verb, as `accelerate launch` and torchrun start them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import typer

T = TypeVar("T")

_PATIENCE = timedelta(days=30)  # a process may be done long before the others


class Processes:
    """This process among those that a launcher started; alone without one.

    Args:
        device: where the model is to go, if the user says so.
    """

    def __init__(self, device: str | None = None) -> None:
        self.rank, self.count, self.device = 0, 1, device
        self._state: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            import torch
            from accelerate import PartialState

            on_processor = device == "cpu" or (device is None and not torch.accelerator.is_available())
            self._state = PartialState(cpu=on_processor, timeout=_PATIENCE)
            self.rank, self.count = self._state.process_index, self._state.num_processes
            self.device = device or str(self._state.device)

    @property
    def speaks(self) -> bool:
        """Whether this is the process that tells the user."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that this process is to do."""
        return items[self.rank :: self.count]

    def gather(self, items: list[T]) -> list[T]:
        """The items of all processes, in each of them; waits for all."""
        if self._state is None:
            return items
        from accelerate.utils import gather_object

        gathered: list[T] = gather_object(items)
        return gathered

    def wait(self) -> None:
        """Until all processes are here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    @contextmanager
    def one_voice(self) -> Iterator[None]:
        """What is wrong for all of them is said once."""
        try:
            yield
        except typer.BadParameter as error:
            if self.speaks:
                raise
            raise typer.Exit(error.exit_code) from error
