"""Which addresses a function may reach, whatever name leads to them. No I/O.

A name in an allow list says nothing of where it leads: whoever runs its DNS decides that. So each address is judged:
by `find_refusal`, which knows the networks that are not the public internet, and by the grants, in which such an
address may stand written out with its port.
"""

import ipaddress

from flux.grants import Grants, IPAddress, Origin
from flux.hostcalls.http_outbound import OutboundError

_NETWORKS = [
    (ipaddress.ip_network(network), meaning)
    for network, meaning in [
        # IANA's special-purpose registries, written out: ``is_private`` and ``is_global`` of the
        # standard library changed their answers between patch releases (3.11.9, 3.12.4).
        ("0.0.0.0/8", "an unspecified address"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "a carrier's internal address"),
        ("127.0.0.0/8", "a loopback address"),
        ("169.254.0.0/16", "a link-local address (cloud metadata is served there)"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "a documentation address"),
        ("192.88.99.0/24", "a 6to4 relay's address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "a benchmarking address"),
        ("198.51.100.0/24", "a documentation address"),
        ("203.0.113.0/24", "a documentation address"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("168.63.129.16/32", "a cloud's metadata address"),  # public by number, the hypervisor by fact
        ("2001::/23", "a reserved address"),  # Teredo, benchmarking, ORCHID
        ("2001:db8::/32", "a documentation address"),
        ("3fff::/20", "a documentation address"),
        ("::/128", "an unspecified address"),
        ("::1/128", "a loopback address"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a private address"),
        ("ff00::/8", "a multicast address"),
    ]
]
_NETWORKS_BY_VERSION = {
    version: [(network, meaning) for network, meaning in _NETWORKS if network.version == version]
    for version in (4, 6)
}
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


def find_refusal(address: IPAddress) -> str | None:
    """Return what kind of address this is when a guest may not reach it unasked, or None."""
    for network, meaning in _NETWORKS_BY_VERSION[address.version]:
        if address in network:
            return meaning
    if isinstance(address, ipaddress.IPv4Address):
        return None
    inner = _find_embedded(address)
    if inner is not None:
        refusal = find_refusal(inner)
        if refusal is not None:
            return f"{refusal}, {inner}, inside an IPv6 one"
    if address not in _GLOBAL_UNICAST and address not in _NAT64 and address.ipv4_mapped is None:
        return "a reserved address"  # nothing beyond 2000::/3 is handed out for the public internet
    return None


def _find_embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that a gateway on the way would unwrap."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    number = int(address)
    if address in _NAT64 or (number >> 32) & 0xFFFFFFFF in _ISATAP:
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return None


def check_address(text: str, origin: Origin, grants: Grants) -> IPAddress:
    """Return the address that ``text`` writes, or raise `OutboundError` when it may not be reached."""
    try:
        address: IPAddress = ipaddress.ip_address(text)
    except ValueError:  # a zone, "fe80::1%eth0": link-local by definition
        raise OutboundError("private_address", f"{origin.host} is {text}, a link-local address") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # the kernel would do the same; judge and grant what it connects to
    refusal = find_refusal(address)
    if refusal is None or grants.vouch_for(origin, address):
        return address
    written = f"[{address}]:{origin.port}" if address.version == 6 else f"{address}:{origin.port}"
    subject = "this host" if str(address) == origin.host else f"{origin.host} resolves to {address}, which"
    raise OutboundError(
        "private_address",
        f'{subject} is {refusal}; a function reaches it only when the allow list says "{written}"',
    )
