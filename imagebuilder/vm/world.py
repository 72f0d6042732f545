"""The outside world on one machine: Internet, home line, LAN, and the hosts on them. Owns the networks.

```
 proxy0 ── internet ── stranger        internet: router of all, root name servers
              │  └──── user            home: NAT, DHCP
             home ── lan0 ── lan       lan0, proxy0: bridges with the machines' cables
```
"""

import os
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from imagebuilder.dns.records import Record
from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import end, environment, run
from imagebuilder.secrets.vault import write_private
from imagebuilder.tools import Tools
from imagebuilder.topology import PublicKeys, Role, Topology
from imagebuilder.vm.addresses import Addresses, Place, addresses
from imagebuilder.vm.authority import Authority, Issuer
from imagebuilder.vm.cables import (
    FAR_ENDS,
    cable_orders,
    devices_of,
    far_end_orders,
    find_cable,
    finish_frames,
    new_far_ends,
)
from imagebuilder.vm.dhcp import Lease, dnsmasq_argv
from imagebuilder.vm.host import Host
from imagebuilder.vm.identity import Identity
from imagebuilder.vm.links import TOOL_S, HomeLine, Link
from imagebuilder.vm.names import STRANGER_NAMES, stranger_tlsa, world_records
from imagebuilder.vm.nameserver import NameServer, make_zone_key, root_addresses
from imagebuilder.vm.namespace import NETWORKS, bind_over, entered, new_network
from imagebuilder.vm.qemu import Cable, mac_address
from imagebuilder.vm.scan import lost_packets

FOLDER = Path("/run/bed")
"""Sockets and small files of the world; /run is the namespace's own."""
BRIDGES = ("proxy0", "lan0")
"""Where the proxy's and the client's cables end."""
CABLE_ENDS = {Role.PROXY: "to-proxy", Role.CLIENT: "to-client"}
"""The devices by which their networks reach the machines."""
PUBLIC_TCP = (22, 25, 80, 443, 587, 993)
"""All that the Internet may see of the proxy; WireGuard answers nobody it does not know."""


@dataclass
class World:
    """The networks around a topology's two machines; use it inside a namespace, as a context manager."""

    tools: Tools
    topology: Topology
    public: PublicKeys
    extra_records: tuple[Record, ...] = ()
    """Further names of the zone."""
    identity: Identity = field(default_factory=lambda: Identity(FOLDER / "identity"))
    """What stays the same from run to run; left out: nothing does."""
    links: dict[str, Link] = field(init=False)
    """The cables of the proxy and of the client, by role, the "stranger"'s, and the home's to the Internet, "line"."""
    line: HomeLine = field(init=False)
    cable: Cable = field(init=False)
    """What the machines are connected by; known once the world is there."""
    places: Addresses = field(init=False)
    internet: Host = field(init=False)
    stranger: Host = field(init=False)
    user: Host = field(init=False)
    home: Host = field(init=False)
    lan: Host = field(init=False)
    issuer: Issuer = field(init=False)
    """The root that everybody in the world trusts."""
    authority: Authority = field(init=False)
    """The ACME server that the topology names."""
    certificate: bytes = field(default=b"", init=False)
    """Key and certificate of the stranger's mail server, PEM."""
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = addresses(self.topology)
        self.internet = Host("internet", self.places.dns_ipv4, self.places.dns_ipv6)
        self.stranger = Host.at("stranger", self.places.stranger)
        self.user = Host.at("user", self.places.user)
        self.home = Host.at("home", self.places.home)
        self.lan = Host.at("lan", self.places.lan)
        self.line = HomeLine(
            self.tools, "home", "eth0", address=self.places.home.ipv4, gateway=self.places.home.ipv4_gateway
        )
        self.links = {
            "line": self.line,
            "stranger": Link(self.tools, "stranger", "eth0"),
            **{str(role): Link(self.tools, self.network_of(role), device) for role, device in CABLE_ENDS.items()},
        }
        self.dns = NameServer(
            self.tools,
            FOLDER / "dns",
            "internet",
            [str(self.places.dns_ipv4), str(self.places.dns_ipv6), *root_addresses()],
        )

    def __enter__(self) -> "World":
        self.cable = find_cable()
        FOLDER.mkdir(parents=True, exist_ok=True)
        for host in self.hosts:
            new_network(host.name)
        new_far_ends()
        self._internet()
        self._leaf(self.stranger, self.places.stranger)
        self._leaf(self.user, self.places.user)
        self._home()
        self._plug_in()
        self._resolver()
        self.issuer = Issuer.read(self.identity.once("issuer", lambda folder: Issuer.new().write(folder)))
        self.certificate = (self.identity.once("stranger", self._certify_stranger) / "mx.pem").read_bytes()
        key = self.identity.once("zone-key", lambda folder: make_zone_key(self.tools, folder))
        self.dns.start(self.records, keys=key)
        self.authority = Authority(
            self.tools, self.issuer, FOLDER / "authority", "internet", str(self.places.dns_ipv4),
            self.topology.acme.directory, str(self.places.dns_ipv4),
        )  # fmt: skip
        self.authority.start()
        self._dhcp()
        return self

    def __exit__(self, *_: object) -> None:
        self.authority.stop()
        self.dns.stop()
        for child in self._children:
            end(child)

    @property
    def hosts(self) -> tuple[Host, ...]:
        """All hosts that are no machines."""
        return (self.internet, self.stranger, self.user, self.home, self.lan)

    @property
    def trust(self) -> ssl.SSLContext:
        """How people of the world verify a server."""
        return ssl.create_default_context(cadata=self.issuer.pem)

    @property
    def user_trust(self) -> ssl.SSLContext:
        """How they verify submission and IMAP: not at all where that certificate comes by a DNS record.

        No provider of this world makes one, so it stays self-signed.
        """
        return self.trust if self.topology.acme.dns_provider is None else unverified()

    @property
    def records(self) -> tuple[Record, ...]:
        """Return every name of the world."""
        known = world_records(self.topology, self.public, self.places)
        return (*known, *([stranger_tlsa(self.certificate)] if self.certificate else []), *self.extra_records)

    @property
    def routers(self) -> tuple[str, ...]:
        """Return the hardware addresses by which the machines know their routers."""
        return tuple(mac_address(bridge) for bridge in BRIDGES)

    def network_of(self, role: Role) -> str:
        """Return the network that the cable of the machine *role* leads to."""
        return "internet" if role is Role.PROXY else "home"

    def lost_packets(self) -> int | None:
        """Return how many packets were ever lost on the way to a machine; None when nobody can tell."""
        # what raw sockets lose, no interface counts
        return lost_packets(self.network_of(role) for role in Role) if self.cable is Cable.TAP else None

    def mend(self) -> bool:
        """Take back all that was done to links, names and the authority; return whether any link had been touched."""
        self.authority.mend()
        self.dns.mend()
        touched = [link.mend() for link in self.links.values()]
        return any(touched)

    def firewall(self, host: Host, rules: str) -> None:
        """Apply *rules*, in nft's language, to *host*; for loss, blocking and the like."""
        with host.entered():
            run(self.tools.argv(["nft", "-f", "-"], network=True), stdin=rules.encode(), timeout_s=TOOL_S)

    # --- making it

    def _certify_stranger(self, folder: Path) -> None:
        # valid for as long as anybody keeps the identity of this world
        write_private(folder / "mx.pem", self.issuer.certify(STRANGER_NAMES, days=3650).decode())

    def _internet(self) -> None:
        proxy = self.topology.proxy
        lines = ["link set lo up", *_bridge("proxy0", self.cable, CABLE_ENDS[Role.PROXY])]
        lines += [f"address add {address}/{_bits(address)} dev lo" for address in root_addresses()]
        lines += [
            f"address add {address}/{_bits(address)} dev lo" for address in (self.internet.ipv4, self.internet.ipv6)
        ]
        router4 = proxy.ipv4_gateway or proxy.ipv4.network[1]
        lines += _router_side("proxy0", router4, proxy.ipv4.network)
        if proxy.ipv6 is not None:
            router6 = proxy.ipv6_gateway or IPv6Address("fe80::1")
            lines += _router_side("proxy0", router6, proxy.ipv6.network)
        for name, place in (("stranger", self.places.stranger), ("user", self.places.user), ("home", self.places.home)):
            lines += [f"link add to-{name} type veth peer name eth0 netns {NETWORKS / name}", f"link set to-{name} up"]
            lines += _router_side(f"to-{name}", place.ipv4_gateway, place.ipv4.network)
            if place.ipv6 is not None and place.ipv6_gateway is not None:
                lines += _router_side(f"to-{name}", place.ipv6_gateway, place.ipv6.network)
        lan6, home6 = self.places.lan.ipv6, self.places.home.ipv6
        assert lan6 is not None and home6 is not None
        lines += [f"route add {lan6.network} via {home6.ip}"]
        self._ip("internet", lines)
        _forward("internet")

    def _leaf(self, host: Host, place: Place) -> None:
        lines = ["link set lo up", "link set eth0 up", f"address add {place.ipv4} dev eth0"]
        lines += [f"route add default via {place.ipv4_gateway}"]
        if place.ipv6 is not None:
            lines += [f"address add {place.ipv6} dev eth0 nodad", f"route add default via {place.ipv6_gateway}"]
        self._ip(host.name, lines)

    def _home(self) -> None:
        line, lan = self.places.home, self.places.lan
        self._leaf(self.home, line)
        lines = [
            *_bridge("lan0", self.cable, CABLE_ENDS[Role.CLIENT]),
            f"link add to-lan type veth peer name eth0 netns {NETWORKS / 'lan'}",
        ]
        lines += ["link set to-lan master lan0", "link set to-lan up"]
        lines += [f"address add {lan.ipv4_gateway}/{lan.ipv4.network.prefixlen} dev lan0"]
        lines += [f"address add {lan.ipv6_gateway}/64 dev lan0 nodad"]
        self._ip("home", lines)
        self._leaf(self.lan, lan)
        _forward("home")
        self.firewall(self.home, NAT_RULES)

    def _plug_in(self) -> None:
        """Make raw sockets at the far ends of the cables work; taps need nothing more."""
        if self.cable is Cable.PACKET:
            self._ip(FAR_ENDS, far_end_orders(tuple(CABLE_ENDS.values())))
            for role, device in CABLE_ENDS.items():
                finish_frames(self.network_of(role), device)

    def _dhcp(self) -> None:
        client, proxy = self.places.client, self.topology.proxy
        lan6 = self.places.lan.ipv6
        lease = Lease(
            mac_address(Role.CLIENT), client.ipv4, client.ipv4_gateway, advertised=lan6.network if lan6 else None
        )
        self._lease("home", "lan0", lease, self.places.dns_ipv4)
        if proxy.dhcp:
            router = proxy.ipv4_gateway or proxy.ipv4.network[1]
            self._lease("internet", "proxy0", Lease(mac_address(Role.PROXY), proxy.ipv4, router, proxy.ipv6), None)

    def _lease(self, network: str, interface: str, lease: Lease, resolver: IPv4Address | None) -> None:
        folder = FOLDER / f"dhcp-{network}"
        folder.mkdir(exist_ok=True)
        self._child(network, dnsmasq_argv(interface, lease, folder, resolver=resolver), folder)

    def _child(self, network: str, argv: list[str], folder: Path) -> None:
        command = self.tools.argv(argv, network=True, write=[folder])
        with entered(network), (folder / f"{argv[0]}.txt").open("ab") as messages:
            self._children.append(
                subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=messages, stderr=messages)
            )

    def _resolver(self) -> None:
        """Make this namespace's programs ask the world's name server."""
        wanted = FOLDER / "resolv.conf"
        wanted.write_text(f"nameserver {self.places.dns_ipv4}\noptions timeout:2 attempts:2\n")
        target = Path(os.path.realpath("/etc/resolv.conf"))
        if not target.exists() and target.is_relative_to("/run"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        if not target.exists():
            raise ImagebuilderError("this machine has no /etc/resolv.conf that the bed could lay its own over")
        bind_over(wanted, target)
        switch = Path("/etc/nsswitch.conf")
        if switch.exists():
            lines = [line for line in switch.read_text().splitlines() if not line.startswith("hosts:")]
            (FOLDER / "nsswitch.conf").write_text("\n".join([*lines, "hosts: files dns"]) + "\n")
            bind_over(FOLDER / "nsswitch.conf", switch)

    def _ip(self, network: str, lines: Sequence[str]) -> None:
        argv = self.tools.argv(["ip", "-batch", "-"], network=True, read=[NETWORKS], devices=devices_of([self.cable]))
        with entered(network):
            run(argv, stdin="\n".join(lines).encode() + b"\n", timeout_s=TOOL_S)


NAT_RULES = """
table ip nat {
    chain after { type nat hook postrouting priority srcnat; oifname "eth0" masquerade; }
}
table inet filter {
    chain forwarded {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "lan0" oifname "eth0" accept
    }
}
"""
"""What any router at home does: nothing comes in that nobody asked for."""


def unverified() -> ssl.SSLContext:
    """Return how to look at a server that has no certificate of the authority, as in its first minute."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _bits(address: object) -> int:
    return 128 if ":" in str(address) else 32


def _bridge(name: str, cable: Cable, end: str) -> list[str]:
    return [
        # Machines that go on from an earlier run remember their router by its hardware address.
        f"link add {name} address {mac_address(name)} type bridge forward_delay 0",
        *cable_orders(cable, end),
        f"link set {end} master {name}",
        f"link set {end} up",
        f"link set {name} up",
    ]


def _router_side(device: str, router: IPv4Address | IPv6Address, network: object) -> list[str]:
    """Return the commands that give *device* the address *router* and reach *network* through it.

    The router need not lie in the network: some providers have it elsewhere.
    """
    late = " nodad" if router.version == 6 else ""
    prefix = 64 if router.is_link_local else _bits(router)
    return [f"address add {router}/{prefix} dev {device}{late}", f"route add {network} dev {device}"]


def _forward(network: str) -> None:
    with entered(network):
        for knob in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", knob).write_text("1")
