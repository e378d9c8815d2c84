"""Images that have an address instead of a path."""

from __future__ import annotations

import os
import threading
from typing import Any
from urllib.parse import unquote, urlsplit

from huggingface_hub import get_session

from ..addresses import without_secrets
from ..errors import InputError

#: the largest file that is fetched: 2 GiB
MAX_BYTES = 1 << 31
#: the longest that one file may take, in seconds
MAX_SECONDS = 900.0

_SECONDS = 30.0  # without an answer, or without the next bytes


def download(
    url: str, path: str | os.PathLike[str], max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS
) -> None:
    """Fetch a file, with the client that `huggingface_hub` is set to use (proxies, certificates, offline mode).

    User and password in the address are sent as such, to that server alone; no message or log shows them.

    Raises:
        ValueError: if the server refuses, the address is wrong, or the file is too large or takes too long; also in
            offline mode.
    """
    try:
        _ = urlsplit(url).port
    except ValueError:
        raise InputError(
            f"{without_secrets(url)}: cannot be fetched (its host or port is none; in a password write / as %2F, # as "
            "%23, ? as %3F)."
        ) from None
    fetching = _Fetching(url, path, max_bytes)
    # A server can send a byte now and then for ever, also of the header. Only another thread can give up waiting.
    thread = threading.Thread(target=fetching.run, name="dinoseg-download", daemon=True)
    thread.start()
    thread.join(max_seconds)
    fetching.stopped = True
    if thread.is_alive():
        raise InputError(f"{without_secrets(url)}: cannot be fetched (it takes more than {max_seconds:g} seconds).")
    if (error := fetching.error) is not None:
        reason = str(error).rstrip(".").replace(url, without_secrets(url)) or type(error).__name__
        raise InputError(f"{without_secrets(url)}: cannot be fetched ({reason}).") from error


class _Fetching:
    """One download, in a thread of its own; `error` is what became of it."""

    def __init__(self, url: str, path: str | os.PathLike[str], max_bytes: int) -> None:
        self.url, self.path, self.max_bytes = url, path, max_bytes
        self.stopped = False
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._fetch()
        except Exception as error:  # the client's own library of errors differs between versions of huggingface_hub
            self.error = error

    def _fetch(self) -> None:
        parts = urlsplit(self.url)
        url, options = self.url, dict[str, Any](timeout=_SECONDS)
        if parts.username is not None:  # the client's log shows addresses
            url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
            options["auth"] = (unquote(parts.username), unquote(parts.password or ""))
        with get_session().stream("GET", url, **options) as response:
            if response.status_code != 200:
                raise InputError(f"{parts.hostname} answers {response.status_code} {response.reason_phrase}".strip())
            done = 0
            with open(self.path, "wb") as file:
                for part in response.iter_bytes():
                    done += len(part)
                    if done > self.max_bytes:
                        raise InputError(f"it has more than {self.max_bytes} bytes, the most that is fetched")
                    if self.stopped:
                        return
                    file.write(part)


__all__ = ["MAX_BYTES", "MAX_SECONDS", "download"]
