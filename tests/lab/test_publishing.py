"""`dude push`: what a hub receives, over its own protocol from a server on this machine."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_cli_train import dude
from test_exporting import trained
from tiny_run import tiny_base  # noqa: F401

TOKEN = "hf_secret_of_a_test"


class Hub(ThreadingHTTPServer):
    """Takes repositories and commits, every file inline, and keeps what it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuses = False


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None: ...

    def reply(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.reply(200, {"id": "me/x", "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers["Authorization"])
        if self.server.refuses:
            self.reply(403, {"error": "no write access"})
        elif self.path == "/api/repos/create":
            self.server.repositories.append(json.loads(body))
            self.reply(200, {"url": f"http://127.0.0.1/me/{json.loads(body)['name']}"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.reply(
                200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.reply(200, {"commitUrl": "http://127.0.0.1/me/x/commit/1", "commitOid": "1", "hookOutput": ""})
        else:
            self.reply(200, {})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants as constants
    from huggingface_hub import hf_api

    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(hf_api.HfApi.__init__, "__defaults__", (address, *hf_api.HfApi.__init__.__defaults__[1:]))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


def test_a_run_is_uploaded_with_its_card_and_tokenizer(tiny_base: Path, tmp_path: Path, hub: Hub) -> None:  # noqa: F811
    run = trained(tiny_base, tmp_path, name="dude")
    result = dude("push", run, "me/x")
    assert result.exit_code == 0, result.output
    assert "http://127.0.0.1/me/x/commit/1" in result.output
    [made] = hub.repositories
    assert (made["name"], made["organization"], made["visibility"]) == ("x", "me", "private")
    assert hub.tokens == {f"Bearer {TOKEN}"}
    local = {p.name: p.read_bytes() for p in (run / "adapter").iterdir()}
    assert hub.files == local
    assert {"README.md", "tokenizer.json", "adapter_model.safetensors", "dude_config.json"} <= set(local)

    assert dude("push", run / "adapter", "me/y", "--public").exit_code == 0
    assert hub.repositories[-1]["visibility"] == "public"


def test_what_the_hub_refuses_is_one_line_without_the_token(tiny_base: Path, hub: Hub) -> None:  # noqa: F811
    hub.refuses = True
    result = dude("push", tiny_base, "me/x")
    assert result.exit_code == 2
    assert "the hub did not take me/x" in result.output
    assert TOKEN not in result.output and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("folder", "name", "variables", "message"),
    [
        ("BASE", "me/x", {"HF_TOKEN": ""}, "HF_TOKEN is not set"),
        ("BASE", "x", {}, "write owner/name"),
        ("BASE", "me/x y", {}, "repository 'me/x y'"),
        (".", "me/x", {}, "neither a run, an adapter nor a model"),
    ],
)
def test_wrong_calls_upload_nothing(
    tiny_base: Path,  # noqa: F811
    tmp_path: Path,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    name: str,
    variables: dict[str, str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    result = dude("push", tiny_base if folder == "BASE" else folder, name)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert not hub.repositories and not hub.files
