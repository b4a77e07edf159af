"""Which addresses may be dialled: the open internet's, and those that somebody named."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images.addresses import DialList

PUBLIC = DialList(networks=(), hosts=("*", "example.com"))


@pytest.mark.parametrize("address", ["93.184.215.14", "8.8.8.8", "2606:4700::1111", "2a00::1"])
def test_public_addresses_are_dialled(address: str) -> None:
    assert PUBLIC.allows(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",  # Alibaba's metadata
        "127.0.0.1",
        "127.8.9.1",
        "168.63.129.16",  # Azure's platform
        "169.254.169.254",  # most clouds' metadata
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",  # Oracle's metadata
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.251",
        "233.252.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001:db8::1",
        "2001::1",  # Teredo
        "2002:7f00:1::",  # 127.0.0.1 by 6to4
        "fc00::1",
        "fd00:ec2::254",  # Amazon's metadata
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_other_addresses_are_refused_unless_named(address: str) -> None:
    assert not PUBLIC.allows(address)
    plain = ipaddress.ip_address(address.partition("%")[0])
    assert DialList(networks=(f"{plain}/{plain.max_prefixlen}",), hosts=()).allows(address)
    assert DialList(networks=(), hosts=(str(plain),)).allows(address)
    other = "203.0.113.0/24" if plain.version == 4 else "2001:db8:9::/48"
    assert not DialList(networks=(other,), hosts=()).allows(address)


@pytest.mark.parametrize("address", ["::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"])
def test_an_address_within_an_address_counts(address: str) -> None:
    assert PUBLIC.allows(address)


def test_a_network_takes_its_addresses_however_they_are_written() -> None:
    dials = DialList(networks=("10.0.0.0/8", "fd00::/8"), hosts=("[::1]",))
    assert all(map(dials.allows, ("10.255.0.1", "::ffff:10.0.0.1", "fd12::1", "::1")))
    assert not any(map(dials.allows, ("192.168.0.1", "fc00::1", "::2")))


@given(st.ip_addresses())
def test_nothing_is_public_that_the_library_calls_private(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if address.is_private or address.is_link_local or address.is_loopback or address.is_multicast:
        assert PUBLIC.allows(str(address)) in (False, _has_public_ipv4(address))


def _has_public_ipv4(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped is not None and PUBLIC.allows(str(mapped))
