"""`dinoseg demo CHECKPOINT`"""

from __future__ import annotations

from typing import Annotated

import typer

from ..checkpoint import check_place
from ._errors import Debug
from ._options import Checkpoint


def demo(
    checkpoint: Checkpoint,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines of the network in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; the first free one from 7860 if not given.")
    ] = None,
    time_limit: Annotated[float, typer.Option(min=1, help="Seconds that one request may take.")] = 120,
    open: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    debug: Debug = False,
) -> None:
    """Try a checkpoint on a page in the browser.

    Drop an image and see its classes over it. The page needs no network. `dinoseg push --space` puts the same page on
    the Hub. Images have at most 64 MiB and 50 million pixels.
    """
    check_place(checkpoint)
    from ..hub.demo import require_gradio, serve

    require_gradio()
    serve(checkpoint, server_name=host, server_port=port, inbrowser=open, seconds=time_limit)
