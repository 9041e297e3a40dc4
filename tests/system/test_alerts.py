"""Alerts as somebody gets them who listens to the webhook of a real server."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import onnx_models as models
import pytest
from servers import ServerProcess, eventually


class Listener(http.server.BaseHTTPRequestHandler):
    """Takes every message but the first, of which it says that it cannot just now."""

    messages: ClassVar[list[Any]]

    def do_POST(self) -> None:
        self.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200 if len(self.messages) > 1 else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[tuple[str, list[Any]]]:
    class Kept(Listener):
        messages: ClassVar[list[Any]] = []

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kept)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", Kept.messages
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_dead_shadow_and_a_rollback_are_told(tmp_path: Path, listener: tuple[str, list[Any]]) -> None:
    url, messages = listener
    for version in (1, 2):
        models.write(tmp_path / "models", "m", version, models.affine(1.0))
    broken = tmp_path / "models" / "m" / "3"
    broken.mkdir()
    (broken / "model.onnx").write_bytes(b"no model at all")

    def told() -> dict[tuple[str, int], str]:
        alerts = [alert for message in messages[1:] for alert in message["alerts"]]
        return {(alert["name"], alert["version"]): alert["summary"] for alert in alerts if alert["status"] == "firing"}

    config = f'grace = 1.0\n[alerts]\nwebhook = "{url}"\n'
    with ServerProcess(tmp_path / "models", tmp_path / "state", config=config) as server, server.control() as control:
        eventually(lambda: ("GnomonShadowDead", 3) in told())
        assert "the shadow is failed: " in told()["GnomonShadowDead", 3]
        control.promote("m", 2, force=True, reason="try it")
        control.rollback("m", reason="worse")
        eventually(lambda: ("GnomonRollback", 2) in told())
        assert told()["GnomonRollback", 2] == "model 'm': version 1 is back in the place of 2"
    # The first message was sent again, whole.
    assert messages[0] == messages[1]
