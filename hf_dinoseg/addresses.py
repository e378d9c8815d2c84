"""Addresses of images: what is one, and how it is shown."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

_SECRET = re.compile(r"([?&;][^=&;#]*(?:key|pass|pwd|secret|sig|signature|token|credential)[^=&;#]*=)[^&;#]*", re.I)


def is_url(name: str | os.PathLike[str]) -> bool:
    """Whether an image is to be fetched."""
    return os.fspath(name).lower().startswith(("http://", "https://"))


def without_secrets(url: str) -> str:
    """An address as it may be shown: without user and password, and without what a query calls a key or a token.

    Example:
        >>> without_secrets("https://anna:pw@host/a.png?size=2&token=abc")
        'https://host/a.png?size=2&token=***'
    """
    scheme, _, rest = url.partition("://")
    end = next((place for place, sign in enumerate(rest) if sign in "/?#"), len(rest))
    try:
        port = urlsplit(url).port
    except ValueError:
        return f"{scheme}://***"
    if port is not None and "@" in rest[end:] and "@" not in rest[:end]:  # a password with a / or # in it, perhaps
        return f"{scheme}://***@{rest.rpartition('@')[2]}"
    return _SECRET.sub(r"\1***", f"{scheme}://{rest[:end].rpartition('@')[2]}{rest[end:]}")


__all__ = ["is_url", "without_secrets"]
