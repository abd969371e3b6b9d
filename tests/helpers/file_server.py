"""A server on this machine that stands in for an address of the network."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FileServer(ThreadingHTTPServer):
    """Serves `files` by path, in parts where they are requested so; `requests` are the lines that came in.

    The first reply with a body ends after `cut_after` bytes, if that is set.
    """

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cut_after: int | None = None
        self.takes_ranges = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle of a reply is part of the tests: nothing is printed."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class FileHandler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        self._reply(has_body=True)

    def do_HEAD(self) -> None:
        self._reply(has_body=False)

    def _content(self, path: str) -> bytes | None:
        return self.server.files.get(path)

    def _extra_headers(self, path: str, content: bytes) -> dict[str, str]:
        return {}

    def _reply(self, has_body: bool) -> None:
        path = self.path.partition("?")[0]
        requested = self.headers.get("Range")
        self.server.requests.append(f"{self.command} {path}" + (f" {requested}" if requested else ""))
        content = self._content(path)
        if content is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(re.findall(r"\d+", requested)[0]) if requested and self.server.takes_ranges else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in self._extra_headers(path, content).items():
            self.send_header(name, value)
        self.end_headers()
        if not has_body:
            return
        if self.server.cut_after is not None:
            body, self.server.cut_after = body[: self.server.cut_after], None
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class HubHandler(FileHandler):
    """What huggingface_hub asks of the Hub: a repository's commit and files, and each file at that commit."""

    def _content(self, path: str) -> bytes | None:
        listing = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+))?", path)
        if listing is None:
            return self.server.files.get(path.replace(f"/resolve/{COMMIT}/", "/"))
        repository = listing[1]
        prefix = f"/{repository}/"
        names = [name.removeprefix(prefix) for name in self.server.files if name.startswith(prefix)]
        if not names or listing[2] not in (None, "main", "v1", COMMIT):
            return None
        siblings = [
            {
                "rfilename": name,
                "size": len(self.server.files[prefix + name]),
                "lfs": {
                    "size": len(self.server.files[prefix + name]),
                    "sha256": hashlib.sha256(self.server.files[prefix + name]).hexdigest(),
                    "pointerSize": 130,
                }
                if name.endswith(".safetensors")
                else None,
            }
            for name in names
        ]
        return json.dumps(
            {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}
        ).encode()

    def _extra_headers(self, path: str, content: bytes) -> dict[str, str]:
        return {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}


@contextmanager
def serve(handler: type[FileHandler] = FileHandler) -> Iterator[FileServer]:
    with FileServer(handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
