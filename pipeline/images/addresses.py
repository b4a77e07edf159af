"""Which network addresses may be dialled: public ones, and those that somebody named.

A host name says nothing about where it leads, and may lead elsewhere a moment later. So a name is
resolved once, its addresses are checked, and a checked address, not the name, is dialled.

Sources: the IANA registries of special-purpose addresses, RFC 6052 (NAT64) and RFC 3056 (6to4).
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from pipeline.errors import ConfigurationError
from pipeline.images.reasons import Reason, UnusableImageError

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network

# Answered by the machine's own cloud, though Python takes them for public: protocol assignments
# (Oracle's metadata service is among them), and Azure's platform services.
_PLATFORM: Final = (IPv4Network("192.0.0.0/24"), IPv4Network("168.63.129.16/32"))
# All IPv6 that is given out; what lies outside is special in one way or another.
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")


class DialList:
    """The addresses that may be dialled.

    Args:
        networks: Networks beside the public ones, as ``10.0.0.0/8``.
        hosts: As in ``fetch.allowed_hosts``: an address among them names itself.

    Raises:
        ConfigurationError: A network that is none.
    """

    def __init__(self, *, networks: Iterable[str], hosts: Iterable[str]) -> None:
        self._named: list[_Network] = []
        for network in networks:
            try:
                self._named.append(ipaddress.ip_network(network))
            except ValueError as error:
                raise ConfigurationError(
                    "A network cannot be used",
                    where="fetch.allowed_networks",
                    expected="a network such as 10.0.0.0/8 or fd00::/8, without bits of a host",
                    got=repr(network),
                ) from error
        for host in hosts:
            with contextlib.suppress(ValueError):  # a name
                self._named.append(ipaddress.ip_network(host.strip("[]")))

    def allows(self, address: str) -> bool:
        """Whether an address is public, or named.

        Args:
            address: As the resolver gives it, also with a zone (``fe80::1%eth0``).
        """
        found = ipaddress.ip_address(address.partition("%")[0])
        inner = _find_ipv4(found)
        if any(one in network for network in self._named for one in (found, inner) if one):
            return True
        return is_public(found) if inner is None else is_public(inner)

    def dial(self, host: str, port: int, timeout_s: Callable[[], float]) -> socket.socket:
        """Connects to one of the allowed addresses of a host, resolved once.

        Args:
            host: A name or an address.
            port: Of the service.
            timeout_s: Seconds the next address may take; called before each.

        Returns:
            The connection, without delay of small packets.

        Raises:
            UnusableImageError: ``uri_not_allowed``: none of its addresses may be dialled;
                ``uri_invalid``: no name can be like that.
            OSError: The name cannot be resolved (``socket.gaierror``), or no address answers.
        """
        try:
            found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # a label that is empty or too long
            detail = "the http address names no usable host"
            raise UnusableImageError(Reason.URI_INVALID, detail) from error
        allowed = [entry for entry in found if self.allows(str(entry[4][0]))]
        if not allowed:
            raise UnusableImageError(
                Reason.URI_NOT_ALLOWED,
                f"host {host!r} is at no public address, nor in fetch.allowed_networks",
            )
        last: OSError | None = None
        for family, kind, protocol, _, address in allowed:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(timeout_s())
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.connect(address)
            except OSError as error:
                connection.close()
                last = error
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise last or OSError("no address")


def is_public(address: _Address) -> bool:
    """Whether an address belongs to the open internet: to no machine, link, company or cloud alone.

    Args:
        address: Without an IPv4 address in it.
    """
    if isinstance(address, IPv6Address):
        return address in _GLOBAL_UNICAST and address.is_global
    special = address.is_multicast or any(address in network for network in _PLATFORM)
    return address.is_global and not special


def _find_ipv4(address: _Address) -> IPv4Address | None:
    """The IPv4 address that packets to an IPv6 address are handed on to."""
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
