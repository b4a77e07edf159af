"""What is shown of URIs in logs and messages: where something is, and no secret."""

from __future__ import annotations

import time

import pytest
from signed_uris import SIGNED_URIS

from pipeline.redaction import redact


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        *SIGNED_URIS,
        ("jdbc:postgresql://u:SECRET@h/db?password=SECRET", "jdbc:postgresql://h/db"),
        ("1s3://AK:SECRET@bucket/x", "1s3://bucket/x"),
        ("wasbs://photos:SEC/RET@account/x", "wasbs://account/x"),
    ],
)
@pytest.mark.parametrize("text", ["{}", "no image at {}", "[{}]; then s3://KEY:SECRET@b/c"])
def test_secrets_are_hidden_also_where_a_uri_is_none(uri: str, shown: str, text: str) -> None:
    told = redact(text.format(uri))

    assert told.startswith(text.partition("{}")[0] + shown)
    assert "SEC" not in told
    assert "RET" not in told


@pytest.mark.parametrize(
    "text",
    [
        "/data/nightly/what?.parquet and /a//b?c=1#d",
        "// a comment, 12:30: who? me@example.org",
        "the bundle cannot be read [models:/tagger@champion]; expected a=b",
        "https://host:8080/icons/a@2x.jpg took 3.5 s; see issue #12, or is it #13?",
        "http://[::1]:5000/a@b is not alive. Why?",
        "hdfs://namenode:8020/user@realm/x: no such file",
        "abfss://photos@account.dfs.core.windows.net/x",
        "file:///home/a b/c.jpg",
        'File "/usr/lib/x.py", line 3, in f: return a // b',
    ],
)
def test_ordinary_text_stays_readable(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("part", ["a", "a:", "//a:", "s3://x c", "https://a:/b@ "])
def test_long_texts_are_searched_in_no_time(part: str) -> None:
    started = time.monotonic()
    redact(part * 20_000)
    assert time.monotonic() - started < 2.0
