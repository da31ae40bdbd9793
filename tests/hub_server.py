"""A Hugging Face Hub on this machine: the endpoints that pushing and pulling datasets use.

The real huggingface_hub client talks to it (HF_ENDPOINT). Contents of large files are on a second
host name, as on the Hub they are with a storage provider. Faults are injected per request.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import fnmatch
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

WRITER = "hf_writerwriterwriterwriter"
READER = "hf_readerreaderreaderreader"

_LARGE = ("*.parquet", "*.jsonl")
_PAGE_ENTRIES = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Blob:
    content: bytes
    is_large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_id(self) -> str:
        header = b"blob %d\0" % len(self.content)
        return hashlib.sha1(header + self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_large else self.git_id


@dataclasses.dataclass(slots=True)
class Repo:
    private: bool
    commits: dict[str, dict[str, Blob]] = dataclasses.field(default_factory=dict)
    refs: dict[str, str] = dataclasses.field(default_factory=dict)

    def commit(self, revision: str, files: dict[str, Blob]) -> str:
        names = "".join(f"{name}{blob.git_id}" for name, blob in sorted(files.items()))
        oid = hashlib.sha1(f"{len(self.commits)}{names}".encode()).hexdigest()
        self.commits[oid] = files
        self.refs[revision] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        oid = self.refs.get(revision, revision)
        return oid if oid in self.commits else None


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """A request that came in."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclasses.dataclass(slots=True)
class Fault:
    """What happens to the next requests of a kind.

    Attributes:
        method, path: which; the path is a pattern.
        status: to answer with; 0 to break the connection off, -1 never to answer.
        times: how many of them.
        after_bytes: of an answer's body, sent before it breaks off.
        is_done_first: the request takes effect, and only its answer is lost.
        skip: so many go through before.
    """

    method: str
    path: str
    status: int
    times: int = 1
    after_bytes: int = 0
    is_done_first: bool = False
    skip: int = 0
    hit: threading.Event = dataclasses.field(default_factory=threading.Event)


class HubServer:
    """Starts on a free port; a context manager."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.stored: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self._faults: list[Fault] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0

    def __enter__(self) -> HubServer:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def break_next(self, method: str, path: str, status: int = 0, **how: Any) -> Fault:
        fault = Fault(method, path, status, **how)
        self._faults.append(fault)
        return fault

    def mend(self) -> None:
        self._faults.clear()

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[repo_id]
        return {name: b.content for name, b in repo.commits[repo.refs[revision]].items()}

    def add(self, repo_id: str, files: dict[str, bytes], *, private: bool = False) -> str:
        """Put a dataset or model there that somebody else pushed; its commit."""
        repo = self.repos.setdefault(repo_id, Repo(private))
        return repo.commit("main", {n: Blob(data, _is_large(n)) for n, data in files.items()})

    def count(self, method: str, pattern: str) -> int:
        return sum(a.method == method and fnmatch.fnmatch(a.path, pattern) for a in self.asked)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=1 << 30, middlewares=[self._middleware()])
        dataset = "/api/datasets/{owner}/{name}"
        app.add_routes(
            [
                web.post("/api/repos/create", self._create),
                web.post("/api/validate-yaml", self._validate),
                web.get(dataset, self._info),
                web.get(dataset + "/revision/{revision}", self._info),
                web.get(dataset + "/tree/{revision}", self._tree),
                web.get(dataset + "/tree/{revision}/{path:.+}", self._tree),
                web.post(dataset + "/paths-info/{revision}", self._paths_info),
                web.post(dataset + "/branch/{branch}", self._branch),
                web.post(dataset + "/preupload/{revision}", self._preupload),
                web.post(dataset + "/commit/{revision}", self._commit),
                web.post("/datasets/{owner}/{name}.git/info/lfs/objects/batch", self._batch),
                web.put("/upload/{oid}", self._upload),
                web.get("/datasets/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve),
                web.get("/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve),
                web.get("/storage/{oid}", self._storage),
            ]
        )
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0)
        self._loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):  # Requests that are held.
            task.cancel()
        self._loop.run_until_complete(runner.cleanup())

    def _middleware(self) -> Any:
        Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            token = request.headers.get("Authorization", "").removeprefix("Bearer ") or None
            self.asked.append(
                Asked(request.method, request.path, request.headers.get("Range"), token)
            )
            fault = self._fault(request)
            if fault is None:
                return self._refusal(request, token) or await handler(request)
            if fault.is_done_first:
                await handler(request)
            fault.hit.set()
            if fault.status > 0:
                return web.json_response({"error": "injected"}, status=fault.status)
            if fault.status < 0:
                await asyncio.Event().wait()
            if fault.after_bytes:
                whole = await handler(request)
                assert isinstance(whole, web.Response)
                assert isinstance(whole.body, bytes)
                part = web.StreamResponse(status=whole.status, headers=whole.headers)
                part.content_length = len(whole.body)
                await part.prepare(request)
                await part.write(whole.body[: fault.after_bytes])
            assert request.transport is not None
            request.transport.close()
            raise web.HTTPInternalServerError

        return middleware

    def _fault(self, request: web.Request) -> Fault | None:
        for fault in self._faults:
            if fault.method == request.method and fnmatch.fnmatch(request.path, fault.path):
                if fault.skip:
                    fault.skip -= 1
                elif fault.times:
                    fault.times -= 1
                    return fault
        return None

    def _refusal(self, request: web.Request, token: str | None) -> web.Response | None:
        if request.path.startswith(("/storage/", "/upload/")):
            return None
        if token not in (None, WRITER, READER):
            return _error(401, "Invalid credentials in Authorization header")
        writes = request.method == "POST" and "paths-info" not in request.path
        if writes and token != WRITER:
            return _error(403, "write access needed") if token else _error(401, "log in")
        repo_id = f"{request.match_info.get('owner')}/{request.match_info.get('name')}"
        if "owner" not in request.match_info:
            return None
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and token is None):
            return _error(404 if token else 401, "Repository not found", code="RepoNotFound")
        revision = request.match_info.get("revision")
        if revision is not None and repo.resolve(revision) is None:
            return _error(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return None

    def _repo(self, request: web.Request) -> Repo:
        return self.repos[f"{request.match_info['owner']}/{request.match_info['name']}"]

    def _at(self, request: web.Request) -> tuple[str, dict[str, Blob]]:
        repo = self._repo(request)
        oid = repo.resolve(request.match_info.get("revision", "main"))
        assert oid is not None
        return oid, repo.commits[oid]

    async def _create(self, request: web.Request) -> web.Response:
        wish = await request.json()
        repo_id = f"{wish['organization']}/{wish['name']}"
        url = f"{self.url}/datasets/{repo_id}"
        if repo_id in self.repos:
            return web.json_response({"error": "exists", "url": url}, status=409)
        is_private = wish.get("private") or wish.get("visibility") == "private"
        repo = self.repos[repo_id] = Repo(bool(is_private))
        repo.commit("main", {".gitattributes": Blob(b"*.parquet filter=lfs\n", False)})
        return web.json_response({"url": url, "name": repo_id})

    async def _validate(self, request: web.Request) -> web.Response:
        return web.json_response({"errors": [], "warnings": []})

    async def _info(self, request: web.Request) -> web.Response:
        oid, files = self._at(request)
        repo_id = f"{request.match_info['owner']}/{request.match_info['name']}"
        siblings = [{"rfilename": name} for name in files]
        facts = {"id": repo_id, "sha": oid, "private": self._repo(request).private}
        return web.json_response({**facts, "siblings": siblings, "tags": [], "downloads": 0})

    async def _tree(self, request: web.Request) -> web.Response:
        _, files = self._at(request)
        under = request.match_info.get("path", "")
        entries = [_entry(n, b) for n, b in sorted(files.items()) if n.startswith(under)]
        if request.query.get("recursive", "false").lower() != "true":
            entries = _level(under, entries)
        start = int(request.query.get("cursor", 0))
        headers = {}
        if start + _PAGE_ENTRIES < len(entries):
            following = request.url.update_query(cursor=start + _PAGE_ENTRIES)
            headers["Link"] = f'<{following}>; rel="next"'
        return web.json_response(entries[start : start + _PAGE_ENTRIES], headers=headers)

    async def _paths_info(self, request: web.Request) -> web.Response:
        _, files = self._at(request)
        body = await request.post() if "form" in request.content_type else await request.json()
        asked = body.getall("paths", []) if hasattr(body, "getall") else body["paths"]
        found = [_entry(str(name), files[str(name)]) for name in asked if name in files]
        folders = [p for p in asked if any(n.startswith(f"{p}/") for n in files)]
        found += [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in folders]
        return web.json_response(found)

    async def _branch(self, request: web.Request) -> web.Response:
        repo, branch = self._repo(request), request.match_info["branch"]
        if branch in repo.refs:
            return web.json_response({"error": "exists"}, status=409)
        repo.refs[branch] = repo.refs["main"]
        return web.json_response({})

    async def _preupload(self, request: web.Request) -> web.Response:
        _, files = self._at(request)
        answer = []
        for wish in (await request.json())["files"]:
            name = wish["path"]
            mode = "lfs" if _is_large(name) else "regular"
            there = files.get(name)
            entry = {"path": name, "uploadMode": mode, "shouldIgnore": False}
            answer.append({**entry, "oid": there.etag if there else None})
        return web.json_response({"files": answer})

    async def _batch(self, request: web.Request) -> web.Response:
        objects = []
        for wish in (await request.json())["objects"]:
            found = {"oid": wish["oid"], "size": wish["size"]}
            if wish["oid"] not in self.stored:
                found["actions"] = {"upload": {"href": f"{self.url}/upload/{wish['oid']}"}}
            objects.append(found)
        return web.json_response({"transfer": "basic", "objects": objects})

    async def _upload(self, request: web.Request) -> web.Response:
        content = await request.read()
        oid = request.match_info["oid"]
        if hashlib.sha256(content).hexdigest() != oid:
            return web.json_response({"error": "checksum"}, status=400)
        self.stored[oid] = content
        return web.Response()

    async def _commit(self, request: web.Request) -> web.Response:
        repo, revision = self._repo(request), request.match_info["revision"]
        oid, files = self._at(request)
        files = dict(files)
        for line in (await request.text()).splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header" and value.get("parentCommit", oid) != oid:
                return web.json_response({"error": "The branch moved"}, status=412)
            if key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                files[value["path"]] = Blob(self.stored[value["oid"]], True)
            elif key == "deletedFile":
                del files[value["path"]]
        made = repo.commit(revision, files)
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        url = f"{self.url}/datasets/{name}/commit/{made}"
        return web.json_response({"commitUrl": url, "commitOid": made})

    async def _resolve(self, request: web.Request) -> web.Response:
        oid, files = self._at(request)
        blob = files.get(request.match_info["path"])
        if blob is None:
            return _error(404, "Entry not found", code="EntryNotFound")
        headers = {"X-Repo-Commit": oid, "ETag": f'"{blob.etag}"'}
        if not blob.is_large:
            return _ranged(request, blob.content, headers)
        self.stored[blob.sha256] = blob.content
        headers |= {"X-Linked-ETag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        headers["Location"] = f"http://localhost:{self.port}/storage/{blob.sha256}"
        return web.Response(status=302, headers=headers)

    async def _storage(self, request: web.Request) -> web.Response:
        return _ranged(request, self.stored[request.match_info["oid"]], {})


def _is_large(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in _LARGE)


def _entry(name: str, blob: Blob) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": len(blob.content), "oid": blob.git_id}
    if blob.is_large:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
    return entry


def _level(under: str, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries right below a folder."""
    found: dict[str, dict[str, Any]] = {}
    depth = len(under.split("/")) if under else 0
    for entry in entries:
        parts = entry["path"].split("/")
        path = "/".join(parts[: depth + 1])
        folder = {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
        found[path] = entry if len(parts) == depth + 1 else folder
    return list(found.values())


def _ranged(request: web.Request, content: bytes, headers: dict[str, str]) -> web.Response:
    asked = request.headers.get("Range")
    if asked is None:
        return web.Response(body=content, headers=headers)
    start, _, end = asked.removeprefix("bytes=").partition("-")
    last = int(end) if end else len(content) - 1
    headers = {**headers, "Content-Range": f"bytes {start}-{last}/{len(content)}"}
    return web.Response(status=206, body=content[int(start) : last + 1], headers=headers)


def _error(status: int, message: str, *, code: str | None = None) -> web.Response:
    headers = {"X-Error-Message": message}
    if code is not None:
        headers["X-Error-Code"] = code
    return web.json_response({"error": message}, status=status, headers=headers)
