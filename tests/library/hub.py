"""A server of one repository, user/digits, as far as huggingface_hub asks for it; its files are in memory."""

import base64
import json
from http.server import BaseHTTPRequestHandler
from typing import Any

COMMIT, FILES = "0" * 40, dict[str, bytes]()


class Hub(BaseHTTPRequestHandler):
    """Uploads in one commit, and downloads of its files."""

    def reply(self, content: Any, status: int = 200) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (("Content-Length", len(body)), ("ETag", f'"{hash(body)}"'), ("X-Repo-Commit", COMMIT)):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    def do_POST(self) -> None:
        body, home = self.rfile.read(int(self.headers["Content-Length"])), f"http://{self.headers['Host']}/user/digits"
        answer: dict[str, Any] = {"url": home, "commitUrl": f"{home}/commit/{COMMIT}", "commitOid": COMMIT}
        if "/preupload/" in self.path:
            upload = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            answer = {"files": [{"path": file["path"], **upload} for file in json.loads(body)["files"]]}
        for item in map(json.loads, body.splitlines() if "/commit/" in self.path else []):
            if item["key"] == "file":
                FILES[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
        self.reply(answer)

    def do_GET(self) -> None:
        _, _, file = self.path.partition(f"/user/digits/resolve/{COMMIT}/")
        kept = [{"type": "file", "rfilename": path, "path": path, "size": 0, "oid": COMMIT} for path in FILES]
        about = kept if "/tree/" in self.path else {"id": "user/digits", "sha": COMMIT, "siblings": kept}
        self.reply(FILES[file] if file else about, 200 if "/user/digits" in self.path else 404)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass
