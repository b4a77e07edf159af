"""Configuration and messages without secrets, for logs, summaries and the ledger."""

from __future__ import annotations

import re
from dataclasses import asdict, is_dataclass
from typing import Any

# User info may hold a password, query and fragment a signature (presigned URLs, SAS tokens), also
# where a URI is only nearly one. Too much is dropped sooner than too little.
# Without a scheme only where a word begins: /a//b is a path. A scheme begins where a run of its
# characters does: a megabyte of letters takes no minutes.
_START = r"(?:(?<![\w+.\-])[\w+.\-]+:/+|(?<![^\s\"'(\[{<=,;|])//(?!/))"
_QUERY = r"[?#][^\s\"]*?(?=[,;.')\]]*(?:[\s\"]|$))"
_URI = re.compile(
    rf"(?P<start>{_START})"
    # A password with a slash is told from a port by its colon: h:80/a@2x is a path.
    r"(?P<user>[^/?#\s\"]*@|[^/?#\s\":\[]*:(?!\d{2,5}(?:[/?#\s\"]|$))[^\s\"]*@)?"
    rf"(?P<place>[^?#\s\"]*)(?:{_QUERY})?"
)
# A URI ends at a space or a double quote. Those it holds itself part it from its query.
_LINE_WITH_URI = re.compile(rf"{_START}[^\n]*")
_LATE_QUERY = re.compile(_QUERY)
# Here the part before the @ is the container, and a path without it is no path.
_CONTAINER_SCHEMES = frozenset({"abfs", "abfss", "wasb", "wasbs"})
_IDS = "ids"


def redact(text: str) -> str:
    """The text with user info, query and fragment of every URI in it dropped."""
    return _LINE_WITH_URI.sub(_without_late_queries, _URI.sub(_kept, text))


def redacted(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain JSON values, without secrets and without image ids.

    Of ``ids`` only the number is kept: the ledger keeps configurations for good, also where an
    image is erased later.

    Args:
        config: A configuration dataclass.
    """
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"expected a configuration dataclass, got {type(config).__name__}")
    plain: dict[str, Any] = _plain(asdict(config))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: len(item) if key == _IDS else _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _kept(found: re.Match[str]) -> str:
    scheme, _, slashes = found["start"].rpartition(":")
    # models:/name@alias is no user info either.
    keeps_user = scheme.lower() in _CONTAINER_SCHEMES or (scheme and slashes != "//")
    user = (found["user"] or "") if keeps_user else ""
    if ":" in user:  # wasbs://container:secret@... is not a thing, but is not to be shown either
        user = ""
    return f"{found['start']}{user}{found['place']}"


def _without_late_queries(line: re.Match[str]) -> str:
    return _LATE_QUERY.sub(lambda query: "" if "=" in query[0] else query[0], line[0])
