"""Fetching: from everywhere it may, nothing it may not, and never longer or more than allowed."""

from __future__ import annotations

import gzip
import os
import pickle
import socket
import ssl
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from pipeline.config import DecodeConfig, FetchConfig
from pipeline.errors import ConfigurationError
from pipeline.images.fetch import MAX_WAIT_S, Fetcher
from pipeline.images.places import ObjectPlace, parse_place
from pipeline.images.reasons import Failure, Reason
from pipeline.spark import LAPTOP_SETTINGS

BODY = b"the bytes of a photo"
BOMB = gzip.compress(bytes(8 * 1024 * 1024))
FAST = FetchConfig(
    threads=2,
    connect_timeout_s=2.0,
    read_timeout_s=0.3,
    total_timeout_s=0.6,
    attempts=1,
    backoff_s=0.01,
    max_bytes=1000,
    allowed_hosts=("127.0.0.1",),
)


def reason_of(outcome: bytes | Failure) -> str:
    return outcome.reason.value if isinstance(outcome, Failure) else f"{len(outcome)} bytes"


# --- local files


@pytest.mark.parametrize(
    "name",
    ["plain.jpg", "a b.jpg", "Zimmer-Süd-房间.jpg", "50%20off.jpg", "what?#1.jpg", "per%cent.jpg"],
)
def test_a_plain_path_is_taken_literally_and_a_file_uri_is_percent_decoded(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(BODY)
    fetcher = Fetcher(FAST)
    assert fetcher.fetch(str(path)) == BODY
    assert fetcher.fetch("file://" + quote(str(path))) == BODY
    assert fetcher.fetch("file:" + quote(str(path))) == BODY
    assert fetcher.fetch("FILE://localhost" + quote(str(path))) == BODY


def test_a_file_name_that_is_not_utf8_is_reached_by_its_percent_encoding(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg")
    Path(os.fsdecode(path)).write_bytes(BODY)
    assert Fetcher(FAST).fetch("file://" + quote(path)) == BODY


def test_what_is_no_regular_file_is_neither_read_nor_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "link", "/dev/zero", "/dev/stdin"):
        started = time.monotonic()
        outcome = Fetcher(FAST).fetch(str(path))
        assert reason_of(outcome) == "uri_invalid", path
        assert time.monotonic() - started < 5


def test_each_way_a_file_can_be_missing_has_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(bytes(1001))
    (tmp_path / "largest").write_bytes(bytes(1000))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    expected = {
        "nothing": "not_found",
        "empty/below-a-file": "not_found",
        "dangling": "not_found",
        "empty": "empty",
        "large": "too_large",
        "largest": "1000 bytes",
        "loop": "uri_invalid",
        "x" * 300: "uri_invalid",
    }
    got = {name: reason_of(Fetcher(FAST).fetch(str(tmp_path / name))) for name in expected}
    assert got == expected

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert reason_of(Fetcher(FAST).fetch(str(tmp_path / "large"))) == "forbidden"


def test_a_file_that_grows_while_it_is_read_stops_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "growing"
    path.write_bytes(BODY)
    monkeypatch.setattr(os, "read", lambda _, count: bytes(count))
    assert reason_of(Fetcher(FAST).fetch(str(path))) == "too_large"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "  ",
        "a\0b.jpg",
        "ftp://host/a.jpg",
        "file://otherhost/a.jpg",
        "file:///a%00b.jpg",
        "file://",
        "s3://",
        "s3:///key",
        "s3://bucket",
        "s3://bucket/folder/",
        "s3://bucket/a/../b.jpg",
        "s3://key:hidden@bucket/a.jpg",
        "hdfs://namenode/a//b",
        "http://",
        "http:///a.jpg",
        "http://host:port/a.jpg",
        "http://[::1/a.jpg",
        "http://" + "a" * 70 + ".example/x",
        "/tmp/\udcff\ud800",
    ],
)
def test_an_address_that_names_no_image_is_uri_invalid(uri: str) -> None:
    outcome = Fetcher(replace(FAST, allowed_hosts=("*",))).fetch(uri)
    assert reason_of(outcome) == "uri_invalid"
    assert isinstance(outcome, Failure)
    assert "hidden" not in outcome.detail
    assert not outcome.retriable


NOWHERE = Fetcher(replace(FAST, allowed_roots=("/nowhere",)))


@given(st.text(max_size=60) | st.text(max_size=40).map("file:///nowhere/".__add__))
def test_no_text_whatever_raises(uri: str) -> None:
    outcome = NOWHERE.fetch(uri)
    assert isinstance(outcome, Failure)
    outcome.detail.encode()


# --- what may be read


def test_roots_hold_after_symbolic_links_and_dots(tmp_path: Path) -> None:
    allowed, secret = tmp_path / "photos", tmp_path / "photos-private"
    for folder in (allowed, secret):
        folder.mkdir()
        (folder / "a.jpg").write_bytes(BODY)
    (allowed / "out.jpg").symlink_to(secret / "a.jpg")
    (allowed / "out").symlink_to(secret)
    (secret / "in.jpg").symlink_to(allowed / "a.jpg")
    (tmp_path / "root").symlink_to(allowed)
    expected = {
        f"{allowed}/a.jpg": "20 bytes",
        f"{secret}/in.jpg": "20 bytes",
        f"{tmp_path}/root/../photos/a.jpg": "20 bytes",
        f"{allowed}/missing.jpg": "not_found",
        f"{secret}/a.jpg": "uri_not_allowed",
        f"{secret}/missing.jpg": "uri_not_allowed",
        f"{allowed}/out.jpg": "uri_not_allowed",
        f"{allowed}/out/a.jpg": "uri_not_allowed",
        f"{allowed}/../photos-private/a.jpg": "uri_not_allowed",
        f"file://{allowed}/%2e%2e/photos-private/a.jpg": "uri_not_allowed",
        "s3://bucket/a.jpg": "uri_not_allowed",
    }
    for root in (str(allowed), f"{allowed}/", str(tmp_path / "root"), f"file://{allowed}"):
        fetcher = Fetcher(replace(FAST, allowed_roots=(root,)))
        assert {uri: reason_of(fetcher.fetch(uri)) for uri in expected} == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was opened")
@pytest.mark.parametrize(
    ("target", "reason"), [("private", "uri_not_allowed"), ("photos/night", "20 bytes")]
)
def test_roots_hold_where_a_folder_becomes_a_link_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, reason: str
) -> None:
    day = tmp_path / "photos" / "day"
    for folder in (day, tmp_path / target):
        folder.mkdir(parents=True)
        (folder / "a.jpg").write_bytes(BODY)
    opening = os.open

    def swap_and_open(path: str, flags: int) -> int:
        day.rename(tmp_path / "yesterday")
        day.symlink_to(tmp_path / target)
        return opening(path, flags)

    fetcher = Fetcher(replace(FAST, allowed_roots=(str(tmp_path / "photos"),)))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", swap_and_open)
        outcome = fetcher.fetch(f"{day}/a.jpg")

    assert reason_of(outcome) == reason


def local_store(place: ObjectPlace, config: FetchConfig) -> fs.FileSystem:
    del place, config
    return fs.SubTreeFileSystem("/", fs.LocalFileSystem())


@pytest.fixture
def store(tmp_path: Path) -> Callable[[ObjectPlace, FetchConfig], fs.FileSystem]:
    for name in ("bucket/photos/a b%20ü?.jpg", "bucket/photos-private/a.jpg", "other/photos/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(BODY)
    (tmp_path / "bucket/photos/large.jpg").write_bytes(bytes(1001))
    (tmp_path / "bucket/photos/empty.jpg").touch()

    def make(place: ObjectPlace, config: FetchConfig) -> fs.FileSystem:
        del config
        base = tmp_path if place.scheme != "hdfs" else tmp_path / (place.authority or "bucket")
        return fs.SubTreeFileSystem(str(base), fs.LocalFileSystem())

    return make


def test_objects_are_read_with_literal_keys(
    store: Callable[[ObjectPlace, FetchConfig], fs.FileSystem],
) -> None:
    fetcher = Fetcher(FAST, store)
    expected = {
        "s3://bucket/photos/a b%20ü?.jpg": "20 bytes",
        "s3a://bucket/photos/a b%20ü?.jpg": "20 bytes",
        "gs://bucket/photos/a b%20ü?.jpg": "20 bytes",
        "hdfs:///photos/a b%20ü?.jpg": "20 bytes",
        "s3://bucket/photos/missing.jpg": "not_found",
        "s3://bucket/photos/large.jpg": "too_large",
        "s3://bucket/photos/empty.jpg": "empty",
        "s3://bucket/photos": "uri_invalid",
    }
    assert {uri: reason_of(fetcher.fetch(uri)) for uri in expected} == expected


def test_a_name_node_is_asked_where_a_root_names_it(
    store: Callable[[ObjectPlace, FetchConfig], fs.FileSystem],
) -> None:
    uri = "hdfs://bucket/photos/a b%20ü?.jpg"
    assert reason_of(Fetcher(FAST, store).fetch(uri)) == "uri_not_allowed"
    for root in ("hdfs://bucket", "hdfs://bucket/photos"):
        assert Fetcher(replace(FAST, allowed_roots=(root,)), store).fetch(uri) == BODY


def test_roots_of_object_stores_end_where_a_path_segment_ends(
    store: Callable[[ObjectPlace, FetchConfig], fs.FileSystem],
) -> None:
    expected = {
        "s3://bucket/photos/a b%20ü?.jpg": "20 bytes",
        "s3a://bucket/photos/a b%20ü?.jpg": "20 bytes",
        "s3://bucket/photos-private/a.jpg": "uri_not_allowed",
        "s3://bucket/photos/../photos-private/a.jpg": "uri_invalid",
        "s3://other/photos/a.jpg": "uri_not_allowed",
        "gs://bucket/photos/a b%20ü?.jpg": "uri_not_allowed",
        "/etc/hostname": "uri_not_allowed",
    }
    for root in ("s3://bucket/photos", "s3a://bucket/photos/"):
        fetcher = Fetcher(replace(FAST, allowed_roots=(root,)), store)
        assert {uri: reason_of(fetcher.fetch(uri)) for uri in expected} == expected
    whole_bucket = Fetcher(replace(FAST, allowed_roots=("s3://other",)), store)
    assert whole_bucket.fetch("s3://other/photos/a.jpg") == BODY


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            "When reading information for key 'k': AWS Error ACCESS_DENIED during HeadObject",
            "forbidden",
        ),
        ("AWS Error NO_SUCH_BUCKET during HeadObject operation", "not_found"),
        ("AWS Error SLOW_DOWN during GetObject operation", "server_error"),
        ("AWS Error NETWORK_CONNECTION: curlCode: 28, Timeout was reached", "fetch_timeout"),
        ("AWS Error UNKNOWN (HTTP status 503) during GetObject", "server_error"),
        ("AWS Error UNKNOWN (HTTP status 403) during GetObject", "forbidden"),
        ("Unable to load libhdfs: key?token=hidden", "fetch_failed"),
    ],
)
def test_what_a_store_says_becomes_a_reason_without_its_words(words: str, reason: str) -> None:
    def fail(place: ObjectPlace, config: FetchConfig) -> fs.FileSystem:
        raise OSError(words)

    outcome = Fetcher(FAST, fail).fetch("s3://bucket/key?token=hidden")
    assert reason_of(outcome) == reason
    assert isinstance(outcome, Failure)
    assert "hidden" not in outcome.detail


@pytest.mark.parametrize(
    "settings",
    [
        {"allowed_roots": ("https://host/photos",)},
        {"allowed_roots": ("ftp://host/photos",)},
        {"allowed_roots": ("s3://",)},
        {"allowed_hosts": ("https://host",)},
        {"allowed_hosts": ("host/path",)},
        {"allowed_hosts": ("host:8080",)},
        {"allowed_hosts": ("a*.example.com",)},
        {"allowed_networks": ("internal",)},
        {"allowed_networks": ("10.0.0.1/8",)},
    ],
)
def test_a_root_or_host_that_could_never_match_is_a_configuration_error(
    settings: dict[str, tuple[str, ...]],
) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        Fetcher(FetchConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("patterns", "host", "is_allowed"),
    [
        ((), "example.com", False),
        (("*",), "example.com", True),
        (("example.com",), "EXAMPLE.com", True),
        (("example.com",), "example.com.", True),
        (("example.com",), "a.example.com", False),
        (("*.example.com",), "a.b.example.com", True),
        (("*.example.com",), "example.com", False),
        (("*.example.com",), "badexample.com", False),
        (("*.example.com",), "a.example.com.evil.net", False),
        (("example.com",), "example.com@evil.net", False),
        (("example.com",), "evil.net\\@example.com", False),
        (("example.com",), "evil.net#@example.com", False),
        (("127.0.0.1",), "[::1]", False),
        (("[::1]",), "[::1]", True),
        (("::1",), "[::1]", True),
    ],
)
def test_host_patterns(
    monkeypatch: pytest.MonkeyPatch, patterns: tuple[str, ...], host: str, is_allowed: bool
) -> None:
    fetcher = Fetcher(replace(FAST, allowed_hosts=patterns))

    def connect(*_: object) -> None:
        raise RuntimeError("asked")

    monkeypatch.setattr(fetcher._web, "_get", connect)
    outcome = fetcher.fetch(f"http://{host}/a.jpg")
    assert isinstance(outcome, Failure)
    assert (outcome.reason is Reason.FETCH_FAILED) == is_allowed
    assert is_allowed or outcome.reason is Reason.URI_NOT_ALLOWED


# --- http, against a server that behaves as badly as asked


class StubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StubServer

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        count = sum(path == self.path for path, _ in self.server.asked)
        action = self.path.split("?")[0].strip("/").replace("-", "_")
        getattr(self, f"answer_{action}", self.answer_status)(count)

    def send(self, status: int, body: bytes = BODY, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_status(self, _: int) -> None:
        self.send(int(self.path.split("?")[0].strip("/")), b"<html>an error page</html>")

    def answer_photo(self, _: int) -> None:
        self.send(200)

    def answer_flaky(self, count: int) -> None:
        self.send(500 if count == 1 else 200)

    def answer_busy(self, count: int) -> None:
        self.send(429 if count == 1 else 200, Retry_After="1")

    def answer_busy_until(self, count: int) -> None:
        until = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        self.send(503 if count == 1 else 200, Retry_After=until)

    def answer_busy_long(self, _: int) -> None:
        self.send(503, Retry_After="3600")

    def answer_busy_oddly(self, count: int) -> None:
        self.send(503 if count == 1 else 200, Retry_After="soon")

    def answer_redirect(self, _: int) -> None:
        self.send(302, b"", Location=self.path.partition("?")[2])

    def answer_circle(self, _: int) -> None:
        self.send(301, b"", Location="/circle")

    def answer_nowhere(self, _: int) -> None:
        self.send(302, b"")

    def answer_empty(self, _: int) -> None:
        self.send(200, b"")

    def answer_large(self, _: int) -> None:
        self.send(200, b"", Content_Length="1001")

    def answer_short(self, _: int) -> None:
        self.send(200, BODY, Content_Length="500")
        self.close_connection = True

    def answer_long(self, _: int) -> None:
        self.send(200, BODY, Content_Length="5")

    def answer_bomb(self, _: int) -> None:
        self.send(200, BOMB, Content_Encoding="gzip")

    def answer_header_flood(self, _: int) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self.server.closing.is_set():
            self.wfile.write(b"X-Flood: " + b"x" * 1000 + b"\r\n")

    def answer_endless(self, _: int) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while not self.server.closing.is_set():
            self.wfile.write(b"100\r\n" + bytes(0x100) + b"\r\n")

    def answer_drip(self, _: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "900")
        self.end_headers()
        self.drip()

    def answer_header_drip(self, _: int) -> None:
        self.send_response_only(200)
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self.drip()

    def drip(self) -> None:
        while not self.server.closing.wait(0.05):
            self.wfile.write(b"x")

    def answer_silent(self, _: int) -> None:
        self.server.closing.wait(5)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class StubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), StubHandler)
        self.asked: list[tuple[str, str | None]] = []
        self.closing = threading.Event()
        self.connections = 0
        self.uri = f"http://127.0.0.1:{self.server_port}"

    def process_request(self, *args: object) -> None:
        self.connections += 1
        super().process_request(*args)  # type: ignore[arg-type]

    def handle_error(self, *_: object) -> None:
        pass  # clients that hang up are the point of these tests


@pytest.fixture
def server() -> Iterator[StubServer]:
    with StubServer() as stub:
        thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield stub
        stub.closing.set()
        stub.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("photo", "20 bytes"),
        ("photo?name=a b ü%20", "20 bytes"),
        ("404", "not_found"),
        ("410", "not_found"),
        ("401", "forbidden"),
        ("403", "forbidden"),
        ("400", "client_error"),
        ("418", "client_error"),
        ("300", "client_error"),
        ("408", "fetch_timeout"),
        ("429", "server_error"),
        ("500", "server_error"),
        ("503", "server_error"),
        ("empty", "empty"),
        ("large", "too_large"),
        ("endless", "too_large"),
        ("short", "fetch_failed"),
        ("long", "5 bytes"),
        ("bomb", "too_large"),
        ("header-flood", "fetch_failed"),
        ("silent", "fetch_timeout"),
        ("drip", "fetch_timeout"),
        ("header-drip", "fetch_timeout"),
        ("redirect?/photo", "20 bytes"),
        ("redirect?photo", "20 bytes"),
        ("redirect?/404", "not_found"),
        ("redirect?http://localhost/photo", "uri_not_allowed"),
        ("redirect?file:///etc/hostname", "uri_not_allowed"),
        ("redirect?ftp://127.0.0.1/a", "uri_not_allowed"),
        ("circle", "client_error"),
        ("nowhere", "client_error"),
    ],
)
def test_each_answer_has_its_reason_in_bounded_time(
    server: StubServer, path: str, reason: str
) -> None:
    started = time.monotonic()
    assert reason_of(Fetcher(FAST).fetch(f"{server.uri}/{path}")) == reason
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.2:{port}/photo",
        "http://[::1]:{port}/photo",
        "http://[::ffff:127.0.0.2]:{port}/photo",
        "http://2130706434:{port}/photo",
        "http://0x7f.2:{port}/photo",
        "http://0:{port}/photo",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://10.0.0.1/photo",
        "http://[64:ff9b::a9fe:a9fe]/photo",
        "file:///etc/hostname",
        "s3://bucket/photo",
        "//127.0.0.2:{port}/photo",
    ],
)
def test_a_redirect_leads_to_no_address_but_public_and_named_ones(
    server: StubServer, target: str
) -> None:
    """The server stands for a stranger's that is allowed; every host name is."""
    fetcher = Fetcher(replace(FAST, allowed_hosts=("127.0.0.1", "*")))
    uri = f"{server.uri}/redirect?{target.format(port=server.server_port)}"
    started = time.monotonic()
    assert reason_of(fetcher.fetch(uri)) == "uri_not_allowed"
    assert time.monotonic() - started < 5
    assert len(server.asked) == 1


class Resolver:
    """Answers each question with the next of its answers, and the last for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0
        monkeypatch.setattr(socket, "getaddrinfo", self.answer)

    def answer(self, host: str, port: int, *_: object, **__: object) -> list[object]:
        assert host == "photos.example"
        self.asked += 1
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in addresses
        ]


NAMED = replace(FAST, allowed_hosts=("photos.example",), allowed_networks=("127.0.0.1/32",))


def test_a_name_is_resolved_once_and_what_was_checked_is_dialled(
    server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver that says something harmless to whoever checks, and another thing afterwards."""
    resolver = Resolver(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    fetcher = Fetcher(NAMED)
    uri = f"http://photos.example:{server.server_port}"
    assert fetcher.fetch(f"{uri}/photo") == BODY
    assert resolver.asked == 1
    # The connection that stands leads where it led.
    assert fetcher.fetch(f"{uri}/photo") == BODY
    assert resolver.asked == 1
    fetcher.close()
    assert reason_of(fetcher.fetch(f"{uri}/photo")) == "uri_not_allowed"
    assert resolver.asked == 2
    assert len(server.asked) == 2


def test_of_several_addresses_only_allowed_ones_are_dialled(
    server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: list[str] = []
    connect = socket.socket.connect

    def note(self: socket.socket, address: tuple[str, int]) -> None:
        dialled.append(address[0])
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", note)
    Resolver(monkeypatch, ["169.254.169.254", "10.0.0.1", "127.0.0.1"])
    uri = f"http://photos.example:{server.server_port}/photo"
    assert Fetcher(NAMED).fetch(uri) == BODY
    assert dialled == ["127.0.0.1"]


def test_a_name_with_many_silent_addresses_takes_no_longer_than_an_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang(self: socket.socket, _: object) -> None:
        time.sleep(self.gettimeout() or 60)
        raise TimeoutError

    monkeypatch.setattr(socket.socket, "connect", hang)
    Resolver(monkeypatch, ["127.0.0.1"] * 100)
    started = time.monotonic()
    config = replace(NAMED, connect_timeout_s=0.2)
    assert reason_of(Fetcher(config).fetch("http://photos.example/photo")) == "fetch_timeout"
    assert time.monotonic() - started < 5


def test_a_name_that_cannot_be_resolved_is_a_failed_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "photos.example?token=hidden")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    outcome = Fetcher(NAMED).fetch("http://photos.example/photo?token=hidden")
    assert outcome == Failure(Reason.FETCH_FAILED, "the host name cannot be resolved")


def test_what_a_server_sends_beyond_its_length_is_nobody_elses_answer(server: StubServer) -> None:
    fetcher = Fetcher(FAST)
    for _ in range(3):
        assert fetcher.fetch(f"{server.uri}/long") == BODY[:5]
        assert fetcher.fetch(f"{server.uri}/photo") == BODY


def test_a_compressed_answer_is_unpacked_no_further_than_allowed(server: StubServer) -> None:
    fetcher = Fetcher(FAST)
    fetcher.fetch(f"{server.uri}/photo")
    tracemalloc.start()
    assert reason_of(fetcher.fetch(f"{server.uri}/bomb")) == "too_large"
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(BOMB) < 16 * 1024
    assert most < 2 * 1024 * 1024


def test_a_dead_port_is_a_failed_fetch(server: StubServer) -> None:
    server.server_close()
    assert reason_of(Fetcher(FAST).fetch(f"{server.uri}/photo")) == "fetch_failed"


def test_five_redirects_are_followed_and_six_are_not(server: StubServer) -> None:
    uri = "/photo"
    for expected in ["20 bytes"] * 5 + ["client_error"]:
        uri = f"/redirect?{uri}"
        assert reason_of(Fetcher(FAST).fetch(server.uri + uri)) == expected


def test_a_failure_that_passes_is_tried_again(server: StubServer) -> None:
    fetcher = Fetcher(replace(FAST, attempts=3))
    assert fetcher.fetch(f"{server.uri}/flaky") == BODY
    outcome = fetcher.fetch(f"{server.uri}/500")
    assert outcome == Failure(Reason.SERVER_ERROR, "HTTP 500 (3 attempts)")
    assert len(server.asked) == 2 + 3


def test_a_failure_that_stays_is_asked_for_once(server: StubServer) -> None:
    fetcher = Fetcher(replace(FAST, attempts=3))
    for path in ("404", "403", "400", "empty", "large", "circle"):
        server.asked.clear()
        assert isinstance(fetcher.fetch(f"{server.uri}/{path}"), Failure)
        assert len(server.asked) == (6 if path == "circle" else 1)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What a fetcher would have waited between attempts, without the waiting."""
    taken: list[float] = []
    monkeypatch.setattr("pipeline.images.fetch.sleep_using_event", lambda _: taken.append)
    return taken


def test_the_pause_a_server_asks_for_is_kept(server: StubServer, pauses: list[float]) -> None:
    fetcher = Fetcher(replace(FAST, attempts=2))
    assert fetcher.fetch(f"{server.uri}/busy") == BODY
    assert fetcher.fetch(f"{server.uri}/busy-until") == BODY
    in_seconds, until_a_date = pauses
    assert 1.0 <= in_seconds <= 1.02
    assert 0.5 <= until_a_date <= 2.02


def test_a_pause_beyond_the_bounds_ends_the_attempts_and_an_odd_one_is_ignored(
    server: StubServer, pauses: list[float]
) -> None:
    fetcher = Fetcher(replace(FAST, attempts=3))
    assert reason_of(fetcher.fetch(f"{server.uri}/busy-long")) == "server_error"
    assert len(server.asked) == 1
    assert not pauses
    assert fetcher.fetch(f"{server.uri}/busy-oddly") == BODY
    assert pauses[0] <= 0.02


def test_pauses_double_and_differ(server: StubServer, pauses: list[float]) -> None:
    fetcher = Fetcher(replace(FAST, attempts=9, backoff_s=1.0))
    fetcher.fetch(f"{server.uri}/500")
    for pause, backoff in zip(pauses, (1, 2, 4, 8, 10, 10, 10, 10), strict=True):
        assert backoff <= pause <= backoff + 1
    assert len(set(pauses[-3:])) == 3


def test_a_batch_whose_every_host_is_slow_does_not_look_like_a_hung_worker() -> None:
    fetch, decode = FetchConfig(), DecodeConfig()
    rows = int(LAPTOP_SETTINGS["spark.sql.execution.arrow.maxRecordsPerBatch"])
    idle_timeout_s = int(LAPTOP_SETTINGS["spark.sql.execution.pyspark.udf.idleTimeoutSeconds"])

    pauses_s = (fetch.attempts - 1) * (MAX_WAIT_S + fetch.backoff_s)
    image_s = fetch.attempts * fetch.total_timeout_s + pauses_s
    last_decoded_s = fetch.threads * decode.timeout_s  # the others while the next are fetched
    assert rows / fetch.threads * image_s + last_decoded_s < idle_timeout_s


def test_connections_are_used_again_after_photos_errors_and_redirects(server: StubServer) -> None:
    fetcher = Fetcher(FAST)
    for path in ("photo", "404", "redirect?/photo", "empty", "photo"):
        fetcher.fetch(f"{server.uri}/{path}")
    assert server.connections == 1


@pytest.mark.parametrize("path", ["photo", "404", "500", "short", "silent", "large"])
def test_credentials_are_sent_and_never_told(server: StubServer, path: str) -> None:
    uri = f"{server.uri}/{path}?token=hidden".replace("//", "//user:hid%2Fden@")
    outcome = Fetcher(FAST).fetch(uri)
    assert server.asked[0][1] == "Basic dXNlcjpoaWQvZGVu"  # base64 of user:hid/den
    if isinstance(outcome, Failure):
        assert "hid" not in outcome.detail
        assert "user" not in outcome.detail


def test_credentials_stay_with_the_origin_they_were_given_for(server: StubServer) -> None:
    with StubServer() as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        uri = f"{server.uri}/redirect?{other.uri}/photo".replace("//", "//user:hidden@", 1)
        assert Fetcher(FAST).fetch(uri) == BODY
        other.shutdown()
        thread.join()
    assert other.asked == [("/photo", None)]
    assert server.asked[0][1] is not None


def test_a_fetch_nobody_waits_for_ends_soon(server: StubServer) -> None:
    patient = replace(FAST, read_timeout_s=30.0, total_timeout_s=30.0, attempts=5, backoff_s=30.0)
    for path in ("silent", "drip", "500"):
        cancelled = threading.Event()
        timer = threading.Timer(0.1, cancelled.set)
        timer.start()
        started = time.monotonic()
        assert isinstance(
            Fetcher(patient).fetch(f"{server.uri}/{path}", cancelled=cancelled), Failure
        )
        assert time.monotonic() - started < 10
        timer.join()


def test_a_fetcher_can_be_pickled_with_connections_open(server: StubServer) -> None:
    fetcher = Fetcher(FAST)
    assert fetcher.fetch(f"{server.uri}/photo") == BODY
    assert pickle.loads(pickle.dumps(fetcher)).fetch(f"{server.uri}/photo") == BODY


def test_bugs_and_lack_of_memory_become_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    fetcher = Fetcher(FAST)
    for error, reason in ((MemoryError(), "out_of_memory"), (KeyError("token"), "fetch_failed")):

        def fail(*_: object, error: Exception = error) -> bytes:
            raise error

        monkeypatch.setattr("pipeline.images.fetch.read_local", fail)
        outcome = fetcher.fetch("/a.jpg")
        assert reason_of(outcome) == reason
        assert isinstance(outcome, Failure)
        assert outcome.retriable
        assert "token" not in outcome.detail


def test_s3_is_read_by_the_real_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Against a stub of S3's two requests: what pyarrow raises is what the mapping expects."""

    class S3Handler(StubHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            self.server.asked.append((self.path, None))
            body = BODY if self.path == "/bucket/a%20b.jpg" else b""
            status = {"/bucket/secret.jpg": 403, "/bucket/busy.jpg": 503}.get(self.path, 404)
            self.send_response(200 if body else status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    with StubServer() as stub:
        stub.RequestHandlerClass = S3Handler
        thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.uri)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        fetcher = Fetcher(replace(FAST, read_timeout_s=5.0, total_timeout_s=5.0))
        uris = [f"s3a://bucket/{name}.jpg" for name in ("a b", "missing", "secret", "busy")]
        got = [reason_of(fetcher.fetch(uri)) for uri in uris]
        stub.shutdown()
        thread.join()
    assert got == ["20 bytes", "not_found", "forbidden", "server_error"]


def write_certificate(path: Path) -> None:
    """Key and self-signed certificate of ``localhost``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem, format_ = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(pem, format_, plain) + certificate.public_bytes(pem))


def test_https_checks_certificates_and_keeps_the_same_limits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_certificate(tmp_path / "localhost.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "localhost.pem")
    config = replace(FAST, allowed_hosts=("localhost", "127.0.0.1"))
    with StubServer() as stub:
        stub.socket = context.wrap_socket(stub.socket, server_side=True)
        thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        home = f"https://localhost:{stub.server_port}"
        stranger = Fetcher(config).fetch(f"{home}/photo")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "localhost.pem"))
        fetcher = Fetcher(config)
        paths = ("photo", "404", "drip", "header-drip", "redirect?/photo")
        got = [reason_of(fetcher.fetch(f"{home}/{path}")) for path in paths]
        other_name = fetcher.fetch(f"https://127.0.0.1:{stub.server_port}/photo")
        stub.closing.set()
        stub.shutdown()
        thread.join()
    assert got == ["20 bytes", "not_found", "fetch_timeout", "fetch_timeout", "20 bytes"]
    assert stranger == other_name == Failure(Reason.FETCH_FAILED, "the TLS connection failed")


def test_places_do_not_show_credentials() -> None:
    assert "hidden" not in repr(parse_place("https://user:hidden@host/a.jpg?token=hidden"))
