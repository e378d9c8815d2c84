"""Pushes while training goes on, and when it ends, as transformers' `hub_strategy` names them.

The Trainer's own push would send a pickled file, and a config that names code which is not there yet.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy

from .push import Pushed, PushError, open_repository, push, refuse_tokens, shared_files, upload

logger = logging.getLogger(__name__)


class PushCallback(TrainerCallback):
    """Pushes checkpoints in the background; a push that fails is a warning, and training goes on.

    | strategy | at every save | path in the repository |
    | --- | --- | --- |
    | `end` | nothing | |
    | `every_save` | the model | top |
    | `checkpoint` | the model, and what resuming needs: optimiser, schedule, random state | `last-checkpoint/` |
    | `all_checkpoints` | the same | `checkpoint-<step>/` |

    Args:
        repo_id, private, revision: as in `push.push`. The repository is opened here, so that a wrong token is known
            before a run rather than after it.
        strategy: transformers' `hub_strategy`.
        always: push although an earlier push has not ended (`hub_always_push`); otherwise that save is passed over.

    Raises:
        PushError: if nothing can be pushed there.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        strategy: str = "every_save",
        always: bool = False,
    ) -> None:
        self.private, self.revision, self.always = private, revision, always
        self.strategy = HubStrategy(strategy)
        self.repo_id = open_repository(repo_id, private=private, revision=revision)
        #: Writes card, metrics and recipe of the model as it is now into a folder.
        self.describe: Callable[[Path], None] = lambda folder: None
        self._api = HfApi()
        self._running: Future[None] | None = None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or self.strategy == HubStrategy.END:
            return
        if self._running is not None and not self._running.done() and not self.always:
            logger.info("step %d is not pushed: the push before it has not ended.", state.global_step)
            return
        checkpoint = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        # Links to the files, for the Trainer may delete the checkpoint before they have arrived.
        stage = TemporaryDirectory(prefix=".push-", dir=str(args.output_dir))
        model, resuming = Path(stage.name) / "model", Path(stage.name) / "resuming"
        for path in shared_files(checkpoint):
            _link(path, model / path.relative_to(checkpoint))
        panels = checkpoint.parent / "panels" / f"step-{state.global_step:06d}"
        for path in panels.glob("*.png"):
            _link(path, model / "panels" / panels.name / path.name)
        self.describe(model)
        if self.strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            for path in (p for p in checkpoint.rglob("*") if p.is_file()):
                _link(path, resuming / path.relative_to(checkpoint))
        name = "last-checkpoint" if self.strategy == HubStrategy.CHECKPOINT else checkpoint.name
        self._running = self._api.run_as_future(self._push, stage, model, resuming, name, state.global_step)

    def _push(self, stage: TemporaryDirectory[str], model: Path, resuming: Path, name: str, step: int) -> None:
        message = f"Training in progress, step {step}"
        try:
            with stage:
                refuse_tokens(model)
                upload(model, self.repo_id, revision=self.revision, message=message)
                if resuming.is_dir():
                    upload(resuming, self.repo_id, revision=self.revision, message=message, path_in_repo=name)
        except (PushError, OSError) as error:
            logger.warning("step %d was not pushed; training goes on. %s", step, error)

    def finish(self, folder: Path, message: str) -> Pushed:
        """Wait for what is under way, then push the finished checkpoint folder.

        Raises:
            PushError: which says that the folder is whole, and how it is pushed by hand.
        """
        if self._running is not None:
            self._running.result()
        try:
            return push(folder, self.repo_id, private=self.private, revision=self.revision, message=message)
        except PushError as error:
            where = f" --revision {self.revision}" if self.revision else ""
            raise PushError(
                f"training has ended and {folder} is whole, but it was not pushed. {error} Later: "
                f"dinoseg push {folder} {self.repo_id}{where}"
            ) from error


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy(source, target)
