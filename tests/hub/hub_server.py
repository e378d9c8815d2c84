"""A small Hub on loopback: the part of its HTTP interface that `huggingface_hub` uses to push and to load.

Repositories are kept in memory, with branches, commits and files. `faults` makes requests fail, `requests` keeps what
was asked, and `stalled` holds an upload where it is, so that a test can end the client in its middle.

    with HubServer() as hub:
        subprocess.run([...], env=os.environ | hub.environment(home))
        hub.repos["model", "me/retina"].files()
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from huggingface_hub import constants

TOKENS = {"hf_" + "w" * 34: ("me", "write"), "hf_" + "r" * 34: ("me", "read"), "hf_" + "x" * 34: ("other", "write")}
WRITES, READS, OTHER = TOKENS

_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass
class Repo:
    """One repository: branches point at commits, a commit is `{path: content}`."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        oid = hashlib.sha1(f"{branch} {message} {len(self.messages)}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        self.messages.append(message)
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]


@dataclass
class Fault:
    """The next `times` requests that match are answered by `status`; 0 closes the connection after half the body."""

    method: str
    path: str  # shell pattern
    status: int
    message: str = ""
    times: int = 1


class HubServer:
    """Listens while it is open.

    Args:
        large: says of a path if it is large (LFS) rather than part of the commit; by default weights and images.
    """

    def __init__(self, large: Callable[[str], bool] = lambda path: path.endswith((".safetensors", ".png"))) -> None:
        self.large = large
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.uploads: list[str] = []  # object ids, in the order of arrival
        self.requests: list[tuple[str, str, int]] = []
        self.faults: list[Fault] = []
        self.one_name_one_kind = False  # a dataset's name is then none for a model
        self.stall: Callable[[int], bool] = lambda size: False
        self.stalled, self.lock = threading.Event(), threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, token: str | None = WRITES) -> dict[str, str]:
        """What a process needs to take this for the Hub, with a cache and a login of its own."""
        values = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        values |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
        return values | ({"HF_TOKEN": token} if token else {})

    def stand_in(self, patch: pytest.MonkeyPatch, home: Path) -> None:
        """Let this very process, whose client is imported already, take it for the Hub, logged in by `WRITES`."""
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "cache"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        patch.setattr(constants, "ENDPOINT", self.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setenv("HF_TOKEN", WRITES)


class _Answer(Exception):  # noqa: N818  # an answer, which may be an error's
    def __init__(self, status: int, body: Any = None, **headers: str) -> None:
        self.status, self.body = status, body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def _refusal(status: int, message: str, code: str = "") -> _Answer:
    return _Answer(status, {"error": message}, X_Error_Message=message, **({"X_Error_Code": code} if code else {}))


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_HEAD = do_GET

    def _serve(self) -> None:
        self.url = urlsplit(self.path)
        self.route = unquote(self.url.path)
        self.query = {name: values[0] for name, values in parse_qs(self.url.query).items()}
        try:
            fault = self._fault()
            self.body = self._read(half=fault is not None and fault.status == 0)
            if fault is not None:
                if fault.status == 0:
                    self.close_connection = True
                    self._note(0)
                    return
                raise _refusal(fault.status, fault.message)
            with self.hub.lock:
                self._answer()
        except _Answer as answer:
            self._send(answer)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _fault(self) -> Fault | None:
        for fault in self.hub.faults:
            if fault.times > 0 and fault.method == self.command and fnmatch(self.route, fault.path):
                fault.times -= 1
                return fault
        return None

    def _read(self, half: bool = False) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        size = int(self.headers.get("Content-Length") or 0)
        if self.command == "PUT" and self.hub.stall(size):
            self.rfile.read(size // 2)
            self.hub.stalled.set()
            self.rfile.read(size)  # until the client is gone
            raise ConnectionAbortedError
        return self.rfile.read(size // 2 if half else size)

    def _send(self, answer: _Answer) -> None:
        self._note(answer.status)
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _note(self, status: int) -> None:
        self.hub.requests.append((self.command, self.route, status))

    # ------------------------------------------------------------------ routes

    def _answer(self) -> None:
        for method, pattern, serve in _ROUTES:
            found = re.fullmatch(pattern, self.route)
            if found and self.command in method.split():
                serve(self, **found.groupdict())
        raise _refusal(404, f"no route for {self.command} {self.route}")

    def _user(self) -> tuple[str, str] | None:
        header = self.headers.get("Authorization")
        if header is None:
            return None
        if (token := header.removeprefix("Bearer ")) not in TOKENS:
            raise _refusal(401, "Invalid credentials in Authorization header")
        return TOKENS[token]

    def _may_write(self, owner: str) -> None:
        user = self._user()
        if user is None:
            raise _refusal(401, "Invalid username or password.")
        if user != (owner, "write"):
            raise _refusal(403, f"You don't have the rights to write in the namespace {owner!r}.")

    def _repo(self, kind: str, name: str, revision: str | None = None) -> Repo:
        repo = self.hub.repos.get((kind, name))
        user = self._user()
        if repo is None or (repo.private and (user is None or user[0] != name.split("/")[0])):
            raise _refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if revision is not None and revision not in {*repo.branches, *repo.commits}:
            raise _refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo

    def whoami(self) -> None:
        user = self._user()
        if user is None:
            raise _refusal(401, "Invalid username or password.")
        raise _Answer(200, {"name": user[0], "type": "user", "auth": {"accessToken": {"role": user[1]}}})

    def create(self) -> None:
        asked = json.loads(self.body)
        user = self._user()
        owner = asked.get("organization") or (user[0] if user else "")
        self._may_write(owner)
        kind, name = asked.get("type", "model"), f"{owner}/{asked['name']}"
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
        kinds = _KINDS.values() if self.hub.one_name_one_kind else (kind,)
        if any((other, name) in self.hub.repos for other in kinds):
            raise _Answer(409, {"error": "You already created this repo", "url": url})
        self.hub.repos[kind, name] = Repo(private=asked.get("visibility") == "private")
        raise _Answer(200, {"url": url})

    def validate(self) -> None:
        """The Hub's checks of a card's metadata that concern ours."""
        asked = json.loads(self.body)
        found = re.match(r"---\r?\n(.*?)\r?\n---", asked["content"], flags=re.DOTALL)
        data = yaml.safe_load(found[1]) if found else {}
        errors = [
            f"{key} must be text" for key in ("license", "pipeline_tag") if not isinstance(data.get(key, ""), str)
        ]
        if data.get("license") == "other" and not data.get("license_name"):
            errors.append("license_name is required beside license: other")
        for model in data.get("model-index", []):
            for result in model.get("results", []):
                missing = {"task", "dataset", "metrics"} - set(result) | {"name", "type"} - set(result["dataset"])
                errors += [f"model-index: {key} is required" for key in sorted(missing)]
        if errors:
            raise _Answer(400, {"errors": [{"message": e} for e in errors], "warnings": []})
        raise _Answer(200, {"errors": [], "warnings": []})

    def branch(self, kind: str, name: str, revision: str) -> None:
        self._may_write(name.split("/")[0])
        repo = self._repo(_KINDS[kind], name)
        if revision in repo.branches:
            raise _refusal(409, "Reference already exists")
        repo.branches[revision] = repo.branches["main"]
        raise _Answer(200, {})

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        repo = self._repo(_KINDS[kind], name, revision)
        sha = repo.branches.get(revision, revision)
        files = [{"rfilename": path} for path in repo.files(revision)]
        raise _Answer(200, {"id": name, "sha": sha, "private": repo.private, "siblings": files, "tags": []})

    def tree(self, kind: str, name: str, revision: str, folder: str = "") -> None:
        repo = self._repo(_KINDS[kind], name, revision)
        files = [(path, content) for path, content in repo.files(revision).items() if path.startswith(folder)]
        if not files:
            raise _refusal(404, f"{folder} does not exist", "EntryNotFound")
        entries = [{"type": "file", "path": path, "size": len(c), "oid": _git_oid(c)} for path, c in files]
        raise _Answer(200, entries)

    def preupload(self, kind: str, name: str, revision: str) -> None:
        self._may_write(name.split("/")[0])
        files = self._repo(_KINDS[kind], name, revision).files(revision)
        answers = []
        for asked in json.loads(self.body)["files"]:
            path, large = asked["path"], self.hub.large(asked["path"])
            entry = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if path in files:
                entry["oid"] = hashlib.sha256(files[path]).hexdigest() if large else _git_oid(files[path])
            answers.append(entry)
        raise _Answer(200, {"files": answers})

    def batch(self, name: str) -> None:
        self._may_write(name.split("/")[0])
        objects = []
        for asked in json.loads(self.body)["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.objects:
                upload = {"href": f"{self.hub.url}/storage/{asked['oid']}"}
                entry["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/verify"}}
            objects.append(entry)
        raise _Answer(200, {"objects": objects, "transfer": "basic"})

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _refusal(400, "the content does not match its hash")
        self.hub.objects[oid] = self.body
        self.hub.uploads.append(oid)
        raise _Answer(200, {})

    def verify(self) -> None:
        asked = json.loads(self.body)
        whole = len(self.hub.objects.get(asked["oid"], b"")) == asked["size"]
        raise _Answer(200, {}) if whole else _refusal(400, "the object is not there")

    def commit(self, kind: str, name: str, revision: str) -> None:
        self._may_write(name.split("/")[0])
        repo = self._repo(_KINDS[kind], name, revision)
        files, message = dict(repo.files(revision)), ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(revision, files, message)
        raise _Answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def resolve(self, kind: str | None, name: str, revision: str, path: str) -> None:
        repo = self._repo(_KINDS[kind or "models"], name, revision)
        commit, files = repo.branches.get(revision, revision), repo.files(revision)
        if path not in files:
            raise _Answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content = files[path]
        etag = hashlib.sha256(content).hexdigest() if self.hub.large(path) else _git_oid(content)
        headers = {"ETag": f'"{etag}"', "X_Repo_Commit": commit, "Content_Length": str(len(content))}
        raise _Answer(200, content, **headers, X_Linked_Size=str(len(content)))


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("POST", rf"{_REPO}/branch/(?P<revision>.+)", _Handler.branch),
    ("POST", rf"{_REPO}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", rf"{_REPO}/commit/(?P<revision>.+)", _Handler.commit),
    ("GET", rf"{_REPO}/tree/(?P<revision>[^/]+)/?(?P<folder>.*)", _Handler.tree),
    ("GET", rf"{_REPO}/revision/(?P<revision>.+)", _Handler.info),
    ("GET", _REPO, _Handler.info),
    ("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/storage/(?P<oid>\w+)", _Handler.store),
    ("POST", r"/verify", _Handler.verify),
    (
        "GET HEAD",
        r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
        _Handler.resolve,
    ),
]
