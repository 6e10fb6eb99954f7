"""The few endpoints of the Hugging Face hub that publishing and downloading need, for a client on this machine."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """Repositories as dicts; who may write has the token `hf_good`, and nobody may in `closed/`.

    Files whose names end in `.safetensors` go by Git LFS, as on the hub, the others in the commit itself.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Request)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.validated: list[str] = []
        self.commits: list[dict] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def served():
    """A hub while the context lasts."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Request(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        hub, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urllib.parse.urlsplit(self.path).path.strip("/").split("/")
        if self.path == "/api/validate-yaml":
            hub.validated.append(json.loads(body)["content"])
            return self._json({"warnings": [], "errors": []})
        if self.headers.get("Authorization") != "Bearer hf_good":
            return self._json({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if parts[-3:] == ["lfs", "objects", "batch"]:
            return self._batch(json.loads(body))
        if len(parts) == 6 and parts[:2] == ["api", "models"]:
            return self._write("/".join(parts[2:4]), parts[4], body)
        return self._json({"error": f"no endpoint {self.path}"}, 404)

    def _create(self, asked):
        name = f"{asked['organization']}/{asked['name']}"
        if name.startswith("closed/"):
            return self._json(
                {"error": "You don't have the rights to create a model under this namespace"}, 403
            )
        url = f"{self.server.address}/{name}"
        if name in self.server.repositories:
            return self._json({"error": "You already created this model repo", "url": url}, 409)
        self.server.repositories[name] = {}
        self.server.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return self._json({"url": url, "id": name})

    def _batch(self, asked):
        objects = [
            {**x, "actions": {"upload": {"href": f"{self.server.address}/objects/{x['oid']}"}}}
            for x in asked["objects"]
        ]
        return self._json({"transfer": "basic", "objects": objects})

    def _write(self, repository, what, body):
        files = self.server.repositories.get(repository)
        if files is None:
            return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if what == "preupload":
            mode = lambda path: "lfs" if path.endswith(".safetensors") else "regular"
            told = [
                {"path": x["path"], "uploadMode": mode(x["path"]), "shouldIgnore": False, "oid": None}
                for x in json.loads(body)["files"]
            ]
            return self._json({"files": told})
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.commits.append(value)
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        url = f"{self.server.address}/{repository}/commit/{COMMIT}"
        return self._json({"commitUrl": url, "commitOid": COMMIT, "success": True})

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() != oid:
            return self._json({"error": "checksum"}, 400)
        self.server.objects[oid] = body
        return self._json({})

    def do_HEAD(self):
        self.do_GET(send=False)

    def do_GET(self, send=True):
        owner, name, *rest = urllib.parse.urlsplit(self.path).path.strip("/").split("/")
        files = self.server.repositories.get(f"{owner}/{name}")
        if files is None:
            return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        file = urllib.parse.unquote("/".join(rest[2:]))
        if rest[:1] != ["resolve"] or file not in files:
            return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        body = files[file]
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        return self._answer(200, body, {"X-Repo-Commit": COMMIT, "ETag": etag}, send)

    def _json(self, value, status=200, headers=None):
        self._answer(
            status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    def _answer(self, status, body, headers, send=True):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if send and self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass
