"""Where the face detector comes from: asked for, the environment, the cache, the web, the package."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.errors import GenedgeError
from runtime.faces import resolve
from runtime.faces.resolve import OWN, Published, find_detector, published
from runtime.folder import user_cache

DATA = b"as good as a model" * 100


class Server:
    """Gives ``body`` with ``status``; ``announce`` bytes are promised."""

    def __init__(self) -> None:
        self.body, self.status, self.announce, self.asked, self.pause = DATA, 200, None, 0, 0.0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                self.send_response(outer.status)
                self.send_header("Content-Length", str(outer.announce or len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)
                with contextlib.suppress(OSError):
                    for _ in range(100 if outer.pause else 0):
                        time.sleep(outer.pause)
                        self.wfile.write(b"x")

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def file(self) -> Published:
        port = self.server.server_address[1]
        return Published(f"http://127.0.0.1:{port}/face.onnx", hashlib.sha256(DATA).hexdigest(), "face")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in (resolve.VARIABLE, resolve.OFFLINE, "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_it_is_fetched_once_and_kept(server: Server, capsys) -> None:
    for _ in range(3):
        found = published(server.file)
        assert found is not None
        assert found.read() == DATA
    assert server.asked == 1
    assert capsys.readouterr().err.count("fetching") == 1


def test_a_damaged_cache_is_fetched_again(server: Server) -> None:
    assert published(server.file)
    path = user_cache() / "face.onnx"
    path.write_bytes(DATA[:-1])
    found = published(server.file)
    assert found is not None
    assert found.read() == DATA == path.read_bytes()
    assert server.asked == 2


@pytest.mark.parametrize("what", ["missing", "another", "cut"])
def test_what_does_not_come_whole_is_not_kept(server: Server, what: str, capsys) -> None:
    if what == "missing":
        server.status = 404
    elif what == "another":
        server.body = DATA[:-1] + b"!"
    else:
        server.body, server.announce = DATA[:50], len(DATA)
    assert published(server.file) is None
    assert not list(user_cache().glob("*")) if user_cache().exists() else True
    assert "own detector" in capsys.readouterr().err


def test_a_server_that_speaks_no_http_is_a_failure_as_others(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(resolve.OFFLINE, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"good morning\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        port = listener.getsockname()[1]
        assert published(Published(f"http://127.0.0.1:{port}/face.onnx", "0" * 64, "face")) is None
    assert "cannot be fetched" in capsys.readouterr().err


def test_a_server_that_drips_is_given_up(server: Server, monkeypatch, capsys) -> None:
    monkeypatch.setattr(resolve, "WHOLE", 0.3)
    server.announce, server.pause = 1000 * len(DATA), 0.05
    started = time.monotonic()
    assert published(server.file) is None
    assert time.monotonic() - started < 2
    assert "cannot be fetched" in capsys.readouterr().err


def test_more_than_a_detector_has_is_not_read(server: Server, monkeypatch, capsys) -> None:
    monkeypatch.setattr(resolve, "MOST_BYTES", len(DATA) - 1)
    assert published(server.file) is None
    assert "own detector" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["", "0"])
def test_offline_is_off_where_it_says_so(server: Server, monkeypatch, value: str) -> None:
    monkeypatch.setenv(resolve.OFFLINE, value)
    assert published(server.file)


def test_offline_nobody_is_asked(server: Server, monkeypatch) -> None:
    monkeypatch.setenv(resolve.OFFLINE, "1")
    assert published(server.file) is None
    assert server.asked == 0


def test_without_a_server_it_goes_on(server: Server, capsys) -> None:
    assert published(replace(server.file, url="http://127.0.0.1:9/face.onnx")) is None
    assert "cannot be fetched" in capsys.readouterr().err


def test_the_order(server: Server, tmp_path: Path, monkeypatch) -> None:
    chosen, other = tmp_path / "chosen.onnx", tmp_path / "other.onnx"
    chosen.write_bytes(b"chosen")
    other.write_bytes(b"other")
    monkeypatch.setattr(resolve, "YUNET", server.file)
    assert find_detector().read() == DATA
    monkeypatch.setenv(resolve.VARIABLE, str(other))
    assert find_detector().read() == b"other"
    assert find_detector(str(chosen)).read() == b"chosen"
    monkeypatch.delenv(resolve.VARIABLE)
    server.status = 404
    (user_cache() / "face.onnx").unlink()
    own = find_detector()
    assert own.path.parent == OWN
    assert own.takes_frames


def test_one_that_was_asked_for_is_that_one_or_an_error(server: Server, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(GenedgeError, match=r"gone\.onnx"):
        find_detector(str(tmp_path / "gone.onnx"))
    monkeypatch.setenv(resolve.VARIABLE, str(tmp_path / "away.onnx"))
    with pytest.raises(GenedgeError, match=resolve.VARIABLE):
        find_detector()
    with pytest.raises(GenedgeError, match="no face detector there"):
        find_detector(str(tmp_path))
    assert server.asked == 0


def test_the_own_detector_is_the_one_that_was_measured() -> None:
    """Its digest is checked whenever it is opened; the card names the weights that it was made of."""
    found = resolve._of_bundle(OWN, "own")
    assert hashlib.sha256(found.read()).hexdigest() == found.sha256
