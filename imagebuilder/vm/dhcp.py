"""The command line of the DHCP servers: the provider's before the proxy, the router's at home. Pure."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, IPv6Network
from pathlib import Path


@dataclass(frozen=True)
class Lease:
    """What one machine gets, always the same."""

    mac: str
    ipv4: IPv4Interface
    router: IPv4Address
    ipv6: IPv6Interface | None = None
    """By DHCPv6, the router by router advertisements; None: not by DHCPv6."""
    advertised: IPv6Network | None = None
    """Network in which the machine takes an address by itself, as router advertisements say."""


def dnsmasq_argv(interface: str, lease: Lease, leases: Path, *, resolver: IPv4Address | None) -> list[str]:
    """Return the argv of the server on *interface* for the one machine it knows.

    With *resolver* it also forwards names there, and says so in its leases, as routers at home do.
    """
    network = lease.ipv4.network
    argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--no-hosts", "--no-resolv"]
    argv += [f"--interface={interface}", "--bind-interfaces", "--pid-file=", f"--dhcp-leasefile={leases}/leases"]
    argv += [f"--server={resolver}"] if resolver else ["--port=0"]
    argv += [f"--dhcp-range={network.network_address},static,{network.netmask},12h"]
    argv += [f"--dhcp-option=option:router,{lease.router}", "--log-dhcp", "--log-facility=-"]
    # A machine that goes on from an earlier run renews a lease that this server never gave.
    argv += ["--dhcp-authoritative"]
    addresses = [str(lease.ipv4.ip)]
    if lease.ipv6 is not None:
        argv += [
            "--enable-ra",
            f"--dhcp-range={lease.ipv6.network.network_address},static,{lease.ipv6.network.prefixlen}",
        ]
        addresses.append(f"[{lease.ipv6.ip}]")
    if lease.advertised is not None:
        argv += ["--enable-ra", f"--dhcp-range={lease.advertised.network_address},ra-only"]
    return [*argv, f"--dhcp-host={','.join((lease.mac, *addresses))}"]
