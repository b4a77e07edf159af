"""Where an image is: an address taken apart, and whether it may be read.

Reads no image. Every refusal is an :class:`UnusableImageError` whose detail holds neither user info
nor a query, since both may be credentials.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote_to_bytes

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from pipeline.errors import ConfigurationError
from pipeline.images.reasons import Reason, UnusableImageError

ObjectScheme = Literal["s3", "gs", "hdfs"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/.*)", re.DOTALL)
_OBJECT_SCHEMES: dict[str, ObjectScheme] = {
    "s3": "s3",
    "s3a": "s3",
    "s3n": "s3",
    "gs": "gs",
    "hdfs": "hdfs",
}
_HOST_PATTERN = re.compile(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:]*:[0-9a-f:.]*")


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A file of this machine.

    Attributes:
        path: As the system calls it. Bytes that are not UTF-8 are surrogates, as in ``os``.
    """

    path: str


@dataclass(frozen=True, slots=True)
class ObjectPlace:
    """An object of a store, or a file of HDFS.

    Attributes:
        scheme: ``s3`` also stands for s3a and s3n.
        authority: Bucket, or name node; empty for the default name node.
        key: Without a leading slash, literal: ``%20`` and ``?`` are characters like others.
    """

    scheme: ObjectScheme
    authority: str
    key: str


@dataclass(frozen=True, slots=True)
class WebPlace:
    """Something behind http or https.

    Attributes:
        url: Parsed and percent-encoded once; this, and no other reading of the text, is what is
            checked and what is connected to.
    """

    url: Url = field(repr=False)

    @property
    def host(self) -> str:
        """The host in lower case, without the brackets of IPv6 and a trailing dot."""
        return (self.url.host or "").lower().strip("[]").rstrip(".")

    @property
    def origin(self) -> tuple[str | None, str, int | None]:
        """Scheme, host and port: what credentials belong to."""
        port = self.url.port or {"http": 80, "https": 443}.get(self.url.scheme or "")
        return self.url.scheme, self.host, port


Place = LocalPlace | ObjectPlace | WebPlace


def parse_place(uri: str) -> Place:
    """Takes an address apart.

    Plain paths are taken literally, ``file:`` addresses are percent-decoded, object keys are
    taken literally (as Hadoop and the stores' own tools do), http addresses are percent-encoded
    where they are not yet.

    Args:
        uri: A path or an address.

    Returns:
        Its parts.

    Raises:
        UnusableImageError: ``uri_invalid`` for anything that names no image.
    """
    if not uri.strip() or "\0" in uri:
        raise _invalid("the uri is empty or holds a NUL character")
    match = _SCHEME.fullmatch(uri)
    if match is None:
        return LocalPlace(uri)
    scheme, rest = match[1].lower(), match[2]
    if scheme in ("http", "https"):
        return parse_web_place(uri)
    if scheme != "file" and scheme not in _OBJECT_SCHEMES:
        raise _invalid(f"scheme {scheme!r} is not supported")
    authority, path = "", rest
    if rest.startswith("//"):
        authority, slash, path = rest[2:].partition("/")
        path = slash + path
    if scheme == "file":
        return _parse_file(authority, path)
    return _parse_object(_OBJECT_SCHEMES[scheme], authority, path.removeprefix("/"))


def parse_web_place(uri: str) -> WebPlace:
    """Takes an http or https address apart.

    Args:
        uri: The address, absolute.

    Returns:
        Its parts.

    Raises:
        UnusableImageError: ``uri_invalid``.
    """
    try:
        url = parse_url(uri)
    except LocationParseError as error:
        raise _invalid("the http address cannot be parsed") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise _invalid("the http address names no host")
    return WebPlace(url)


def _parse_file(authority: str, path: str) -> LocalPlace:
    if authority.lower() not in ("", "localhost"):
        raise _invalid("a file: address with a host")
    path = os.fsdecode(unquote_to_bytes(path))
    if not path or "\0" in path:
        raise _invalid("a file: address without a path, or with a NUL character")
    return LocalPlace(path)


def _parse_object(scheme: ObjectScheme, authority: str, key: str) -> ObjectPlace:
    if "@" in authority:
        raise _invalid("credentials in the address; give them to the storage client instead")
    if not authority and scheme != "hdfs":
        raise _invalid(f"a {scheme} address without a bucket")
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise _invalid(f"a {scheme} address with an empty, '.' or '..' part, or of a folder")
    return ObjectPlace(scheme, authority, key)


def _invalid(detail: str) -> UnusableImageError:
    return UnusableImageError(Reason.URI_INVALID, detail)


class AllowList:
    """What may be read.

    Args:
        roots: Folders and address prefixes. Empty: every local path and object, but of HDFS only
            those of the default name node.
        hosts: Host names for http; ``*.example.com`` takes subdomains, ``*`` any. Empty: none.

    Raises:
        ConfigurationError: A root or host pattern that could never match what it seems to say.
    """

    def __init__(self, *, roots: Iterable[str], hosts: Iterable[str]) -> None:
        self._folders: list[str] = []
        self._prefixes: list[ObjectPlace] = []
        self._any_root = True
        for root in roots:
            self._any_root = False
            self._add_root(root)
        self._hosts = tuple(host.lower().strip("[]").rstrip(".") for host in hosts)
        for host in self._hosts:
            if _HOST_PATTERN.fullmatch(host) is None:
                raise ConfigurationError(
                    "A host pattern cannot be used",
                    where="fetch.allowed_hosts",
                    expected="a host name, *.example.com or *, without scheme, port and path",
                    got=repr(host),
                )

    def _add_root(self, root: str) -> None:
        try:
            store = re.fullmatch(r"(\w+)://([^/@]+)/*", root)
            if store and store[1].lower() in _OBJECT_SCHEMES:
                # A bucket alone is a fine root, though no place of an image.
                self._prefixes.append(ObjectPlace(_OBJECT_SCHEMES[store[1].lower()], store[2], ""))
                return
            place = parse_place(root if root.endswith("//") else root.rstrip("/") or "/")
        except UnusableImageError as error:
            raise ConfigurationError(
                "A root cannot be used", where="fetch.allowed_roots", got=str(error)
            ) from error
        if isinstance(place, WebPlace):
            raise ConfigurationError(
                "A root cannot be used",
                where="fetch.allowed_roots",
                expected="a folder or the prefix of an object store",
                got="an http address",
                todo="name its host in fetch.allowed_hosts",
            )
        if isinstance(place, LocalPlace):
            self._folders.append(os.path.realpath(place.path))
        else:
            self._prefixes.append(place)

    def resolve(self, place: LocalPlace) -> str:
        """The real path of a file, after symbolic links and ``..``.

        Args:
            place: The file.

        Returns:
            Its real path, below an allowed folder. It need not exist.

        Raises:
            UnusableImageError: ``uri_not_allowed``.
        """
        real = os.path.realpath(place.path)
        self.check_file(real)
        return real

    def check_file(self, real: str) -> None:
        """Refuses files below no allowed folder.

        Args:
            real: A path free of symbolic links.

        Raises:
            UnusableImageError: ``uri_not_allowed``.
        """
        if not self._any_root and not any(
            os.path.commonpath((real, folder)) == folder for folder in self._folders
        ):
            raise UnusableImageError(
                Reason.URI_NOT_ALLOWED, "the file lies outside of fetch.allowed_roots"
            )

    def check_object(self, place: ObjectPlace) -> None:
        """Refuses objects below no allowed prefix. Prefixes end where a path segment ends.

        A name node is a host: one that an address names is asked only where a root names it too.

        Args:
            place: The object.

        Raises:
            UnusableImageError: ``uri_not_allowed``.
        """
        for root in self._prefixes:
            same_store = (root.scheme, root.authority) == (place.scheme, place.authority)
            below = not root.key or place.key == root.key or place.key.startswith(root.key + "/")
            if same_store and below:
                return
        if not self._any_root or (place.scheme == "hdfs" and place.authority):
            raise UnusableImageError(
                Reason.URI_NOT_ALLOWED, "the object lies outside of fetch.allowed_roots"
            )

    def check_host(self, place: WebPlace) -> None:
        """Refuses hosts that no pattern allows.

        Args:
            place: Something behind http.

        Raises:
            UnusableImageError: ``uri_not_allowed``.
        """
        host = place.host
        for pattern in self._hosts:
            if pattern in ("*", host):
                return
            if pattern.startswith("*.") and host.endswith(pattern[1:]) and host != pattern[2:]:
                return
        raise UnusableImageError(
            Reason.URI_NOT_ALLOWED, f"host {host!r} is not in fetch.allowed_hosts"
        )
