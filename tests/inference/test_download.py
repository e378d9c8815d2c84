"""Fetching: how long, how much, and what is said of an address that holds a password."""

from __future__ import annotations

import base64
import io
import json
import logging
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from hf_dinoseg.addresses import without_secrets
from hf_dinoseg.cli._images import find_images, name_results
from hf_dinoseg.errors import TooLargeError
from hf_dinoseg.images import opening
from hf_dinoseg.inference import Job, download, folders, segment_files, segmenter
from hf_dinoseg.inference.download import download as fetch
from hf_dinoseg.inference.segmenter import load_image

PASSWORD, TOKEN = "Tr0ub4dor", "s3same"


class Server(BaseHTTPRequestHandler):
    seen: list[str | None] = []

    def do_GET(self) -> None:
        Server.seen.append(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        if path == "/none.png":
            self.send_error(404)
            return
        stream = io.BytesIO()
        image = Image.fromarray(np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3))
        image.save(stream, "TIFF" if path.endswith("tif") else "PNG")
        self.send_response(200)
        self.end_headers()
        if path == "/drip.png":
            for byte in stream.getvalue():
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
        self.wfile.write(stream.getvalue())

    def log_message(self, *arguments: Any) -> None:
        pass


class DrippingHead(socketserver.BaseRequestHandler):
    """Answers a byte at a time, and is never done with the head."""

    def handle(self) -> None:
        self.request.recv(4096)
        try:
            self.request.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
            for _ in range(400):
                self.request.sendall(b"x")
                time.sleep(0.05)
        except OSError:
            pass


def serve(server: socketserver.BaseServer) -> Iterator[str]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def host() -> Iterator[str]:
    Server.seen.clear()
    yield from serve(ThreadingHTTPServer(("127.0.0.1", 0), Server))


@pytest.fixture
def slow_host() -> Iterator[str]:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), DrippingHead)
    server.daemon_threads = True
    yield from serve(server)


def test_a_server_that_sends_a_byte_now_and_then_is_left(host: str, slow_host: str, tmp_path: Path) -> None:
    for address in (f"http://{host}/drip.png", f"http://{slow_host}/a.png"):
        with pytest.raises(ValueError, match="cannot be fetched .it takes more than 0.3 seconds"):
            fetch(address, tmp_path / "a", max_seconds=0.3)


SECRET = [
    ("https://anna:pw@host/a.png", "https://host/a.png"),
    ("https://anna@host:80/a.png", "https://host:80/a.png"),
    ("https://anna:p@w@host/a.png", "https://host/a.png"),
    ("https://anna:p/w@host/a.png", "https://***"),
    ("https://anna:12/w@host/a.png", "https://***@host/a.png"),
    ("https://anna:p#w@host/a.png", "https://***"),
    ("https://host/@anna/a.png?id=3", "https://host/@anna/a.png?id=3"),
    ("https://h/a?id=3&X-Amz-Signature=abc&token=pw#x", "https://h/a?id=3&X-Amz-Signature=***&token=***#x"),
]


@pytest.mark.parametrize(("url", "shown"), SECRET)
def test_an_address_is_shown_without_what_is_secret(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_a_password_is_sent_and_never_shown(
    host: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"http://anna:{PASSWORD}@{host}"
    assert load_image(f"{url}/a.png?token={TOKEN}").size == (40, 30)
    sent = base64.b64encode(f"anna:{PASSWORD}".encode()).decode()
    assert Server.seen == [f"Basic {sent}"]
    said = []
    wrong = ["/none.png", "/\x00.png", ":x/a.png", "]/a.png"]
    for address in [*(f"{url}{end}?key={TOKEN}" for end in wrong), f"http://anna:{PASSWORD}/@{host}/a.png"]:
        with pytest.raises(ValueError) as caught:
            load_image(address)
        said.append(str(caught.value))
    images, _ = find_images([f"{url}/a.png?token={TOKEN}", f"{url}/b/a.png"])
    said += [str(name) for name in name_results(images)] + [image.name for image in images]
    job = Job(f"{url}/none.png?token={TOKEN}", {"ids": tmp_path / "a.png"})
    for outcome in segment_files(_NoModel(), [job], threads=1):
        said += [outcome.error or "", outcome.job.name]
    everything = json.dumps(said) + caplog.text + "".join(capsys.readouterr())
    assert PASSWORD not in everything and sent not in everything and TOKEN not in json.dumps(said)
    assert "404" in everything


class _NoModel:
    """Enough of a segmenter for files that are refused before the model sees them."""

    batch_size, window = 1, 64
    label_space = None

    def __init__(self) -> None:
        import torch

        self.model = torch.nn.Linear(1, 1)


def test_a_fetched_image_has_a_smaller_limit_and_strips_are_read_all_the_same(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tifffile")
    monkeypatch.setattr(segmenter, "MAX_FOREIGN_PIXELS", 1199)
    monkeypatch.setattr(folders, "MAX_FOREIGN_PIXELS", 1199)
    with pytest.raises(TooLargeError, match="1200 pixels, and 1199"):
        load_image(f"http://{host}/a.png")
    by_strips = []
    monkeypatch.setattr(folders, "_by_strips", lambda _, item: by_strips.append(item.job.name) or item_done(item))
    jobs = [Job(f"http://{host}/{name}", {"ids": tmp_path / f"{name}.png"}) for name in ("a.png", "b.tif")]
    outcomes = {outcome.number: outcome for outcome in segment_files(_NoModel(), jobs, threads=1)}
    assert "1200 pixels" in (outcomes[0].error or "") and by_strips == [jobs[1].name]
    assert opening.MAX_FOREIGN_PIXELS > 1199 and download.MAX_BYTES > 0


def item_done(item: Any) -> folders.Outcome:
    return folders.Outcome(item.number, item.job)
