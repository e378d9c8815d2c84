"""What goes wrong between here and the Hub, in one sentence each: what, where, what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

TOKENS = "https://huggingface.co/settings/tokens"
AGAIN = "What has arrived stays there: the same push again goes on where this one stopped."

_STATUS = {
    402: "the Hub asks for payment before it goes on.",
    413: "a file is larger than the Hub takes.",
    429: "the Hub is asked too often. Wait some minutes. " + AGAIN,
}


class PushError(RuntimeError):
    """A checkpoint that could not be pushed."""


@contextmanager
def explained(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn what `huggingface_hub` raises into a message that says what to do.

    Raises:
        PushError: in place of the client's errors; files that cannot be read stay OSErrors.
    """
    try:
        yield
    except PushError:
        raise
    except (HTTPError, OfflineModeIsEnabled, LocalTokenNotFoundError, RuntimeError, ValueError) as error:
        raise PushError(f"{repo_id}: {_explain(error, repo_id, revision)}") from error


def _explain(error: Exception, repo_id: str, revision: str | None) -> str:
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, HTTPError):
        error = error.__cause__  # an upload in a thread of its own wraps what happened
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing is sent. Unset it, and push again."
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no token for the Hub. Run `hf auth login`, or set HF_TOKEN, with one that writes ({TOKENS})."
    if isinstance(error, RevisionNotFoundError):
        return f"the repository has no revision {revision}."
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error, repo_id)
    if isinstance(error, HTTPError):
        return f"{constants.ENDPOINT} cannot be reached, or broke off ({_line(error)}). {AGAIN}"
    if isinstance(error, ValueError):
        return _line(error)
    return f"the upload broke off ({_line(error)}). {AGAIN}"


def _explain_status(error: HfHubHTTPError, repo_id: str) -> str:
    status, said = error.response.status_code, error.server_message
    quoted = f" (the Hub says: {said})" if said else ""
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        where = "HF_TOKEN, which goes before `hf auth login`" if os.environ.get("HF_TOKEN") else "`hf auth login`"
        return f"the Hub does not accept the token of {where}{quoted}. Make one that writes at {TOKENS}."
    if status == 403:
        return (
            f"the token may not write there{quoted}. Check the owner in the name, and that the token is one that "
            f"writes to repositories of {repo_id.partition('/')[0]} ({TOKENS})."
        )
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return f"there is no such model repository, or the token may not see it{quoted}."
    if status == 409:
        return f"the name is in conflict with something on the Hub{quoted}. Choose another name."
    if status >= 500:
        return f"the Hub failed (HTTP {status}){quoted}. {AGAIN}"
    return _STATUS.get(status, f"HTTP {status}: {said or _line(error)}.")


def _line(error: BaseException) -> str:
    """A message in one line, without the address of a request, which tells a reader nothing."""
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    return text.rstrip(".")
