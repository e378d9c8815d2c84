"""Images that have an address instead of a path."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from huggingface_hub import get_session

from ..errors import InputError

#: the largest file that is fetched: 2 GiB
MAX_BYTES = 1 << 31

_SECONDS = 30.0  # without an answer, or without the next bytes


def is_url(name: str | os.PathLike[str]) -> bool:
    """Whether an image is to be fetched."""
    return os.fspath(name).lower().startswith(("http://", "https://"))


def download(url: str, path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> None:
    """Fetch a file, with the client that `huggingface_hub` is set to use (proxies, certificates, offline mode).

    Raises:
        ValueError: if the server refuses, the address is wrong, or the file is too large; also in offline mode.
    """
    try:
        with get_session().stream("GET", url, timeout=_SECONDS) as response:
            if response.status_code != 200:
                raise InputError(
                    f"{urlsplit(url).netloc} answers {response.status_code} {response.reason_phrase}".strip()
                )
            done = 0
            with open(path, "wb") as file:
                for part in response.iter_bytes():
                    done += len(part)
                    if done > max_bytes:
                        raise InputError(f"it has more than {max_bytes} bytes, the most that is fetched")
                    file.write(part)
    except Exception as error:  # the client's own library of errors differs between versions of huggingface_hub
        raise InputError(f"{url}: cannot be fetched ({str(error).rstrip('.') or type(error).__name__}).") from error


__all__ = ["MAX_BYTES", "download", "is_url"]
