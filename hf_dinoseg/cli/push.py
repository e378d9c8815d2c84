"""`dinoseg push CHECKPOINT REPO_ID`"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..checkpoint import check_place
from ._errors import Debug
from ._output import print_json


def push(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint folder, as training left it.", show_default=False)
    ],
    repo_id: Annotated[
        str,
        typer.Argument(metavar="REPO_ID", help="The model repository, owner/name; made if new.", show_default=False),
    ],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[
        str | None,
        typer.Option(metavar="BRANCH", help="Push to this branch, made if new, instead of main.", show_default=False),
    ] = None,
    space: Annotated[
        bool, typer.Option("--space", help="Also make a Space of the same name: a page to try the checkpoint on.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was pushed as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Publish a checkpoint on the Hugging Face Hub.

    Uploaded are weights, configs, the model's code, card, metrics, recipe and images; the optimiser's state is not.
    The token is the one of `hf auth login` or HF_TOKEN. A push that broke off goes on when it is repeated.
    """
    _check_folder(checkpoint)
    _check_repo_id(repo_id)
    from ..hub.push import push as push_checkpoint

    pushed = push_checkpoint(checkpoint, repo_id, private=private, revision=revision)
    page = None
    if space:
        from ..hub.space import push_space

        page = push_space(pushed.repo_id, private=private)
    if json:
        print_json(asdict(pushed) | ({"space": page} if space else {}))
        return
    typer.echo(f"{len(pushed.files)} files: {pushed.url}")
    if page:
        typer.echo(f"page: {page}")
        if private:
            typer.echo("A private checkpoint can be read by its Space once a token is its secret HF_TOKEN.")


def _check_folder(checkpoint: Path) -> None:
    if not checkpoint.exists():
        raise typer.BadParameter(f"there is no folder {checkpoint}.")
    check_place(str(checkpoint))


def _check_repo_id(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    kind = repo_id.partition("/")[0]
    if repo_id.count("/") == 2 and kind in ("models", "datasets", "spaces"):
        tail = repo_id.partition("/")[2]
        raise typer.BadParameter(f"{repo_id} names one of the {kind}; a model repository is named owner/name: {tail}.")
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise typer.BadParameter(
            f"{repo_id!r} is no repository name; write owner/name, of letters, digits, `-`, `_` and `.`."
        ) from None
