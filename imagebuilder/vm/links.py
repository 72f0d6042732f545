"""Cables that misbehave: loss, bandwidth, packet size, an end unplugged, and a home line that changes its face.

A cable is known by one of its ends, a device in one of the world's networks. What is done to it holds for both
directions until it is mended. Runs nft, tc and ip.
"""

import contextlib
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import ProcessError, run
from imagebuilder.tools import Tools
from imagebuilder.vm.namespace import entered

ETHERNET_MTU = 1500
ETHERNET_HEADER = 14
"""Octets that count for what leaves and not for what comes."""
TOOL_S = 60.0
"""Seconds that nft, tc and ip may take."""


@dataclass
class Link:
    """A cable, by the end of it that is the device *device* of *network*."""

    tools: Tools
    network: str
    device: str
    _sound: bool = field(default=True, init=False)
    _faults: dict[str, str] = field(default_factory=dict, init=False)
    """Rules by what they do; each holds for both directions."""

    def down(self) -> None:
        """Unplug it, silently: nothing passes, and neither end is told."""
        self._set("down", "drop")

    def up(self) -> None:
        """Plug it in again."""
        self._set("down", None)

    def loss(self, percent: float) -> None:
        """Lose that many of a hundred packets, at random; 0: none."""
        if not 0 <= percent <= 100:
            raise ImagebuilderError(f"a link can't lose {percent} % of its packets", hint="0 to 100")
        some = f"numgen random mod 1000 < {round(percent * 10)} drop"
        self._set("loss", None if not percent else "drop" if percent == 100 else some)

    def only(self, version: int | None) -> None:
        """Let nothing pass but IP of that *version*; None: both."""
        other = {4: "ip6", 6: "ip", None: None}[version]
        self._set("version", other and f"meta protocol {other} drop")

    def bandwidth(self, kbit_s: int | None) -> None:
        """Let no more than *kbit_s* pass in each direction; None: all that comes."""
        self._tc(["del", "dev", self.device, "root"], missing_ok=True)
        if kbit_s is None:
            self._set("bandwidth", None)
            return
        burst = max(kbit_s * 125 // 10, 16_000)  # a tenth of a second, but no less than some packets
        self._tc(
            ["add", "dev", self.device, "root", "tbf", "rate", f"{kbit_s}kbit", "burst", str(burst), "latency", "500ms"]
        )
        # What comes in by the device can't wait in a queue of ours; senders notice the drops and slow down. nft lets
        # a second's worth pass ahead (net/netfilter/nft_limit.c).
        self._set("bandwidth", f"limit rate over {kbit_s * 125} bytes/second burst {burst} bytes drop", egress=False)

    def latency(self, milliseconds: int) -> None:
        """Delay what leaves by the device; 0: not at all. Raise NoNetemError where the kernel can't."""
        self._tc(["del", "dev", self.device, "root"], missing_ok=True)
        if milliseconds:
            try:
                self._tc(["add", "dev", self.device, "root", "netem", "delay", f"{milliseconds}ms", "limit", "10000"])
            except ProcessError as error:
                if "unknown" not in error.output:
                    raise
                raise NoNetemError(f"this machine's kernel can't delay packets on {self.device} (netem)") from error

    def mtu(self, octets: int = ETHERNET_MTU) -> None:
        """Let no IP packet of more than *octets* pass; the device's side answers larger ones as routers do."""
        self._ip([f"link set {self.device} mtu {octets}"])

    def swallow(self, octets: int) -> None:
        """Lose every IP packet of more than *octets* without a word, as paths do that let no ICMP pass."""
        self._set("size", f"meta length > {octets + ETHERNET_HEADER} drop")

    def lose_udp(self, port: int) -> None:
        """Lose what comes from that UDP port, as a router does that keeps a dead mapping for it."""
        self._set("udp", f"udp sport {port} drop")

    def mend(self) -> bool:
        """Take everything back; return whether there was anything."""
        if self._sound:
            return False
        self._faults.clear()
        self._apply({})
        self._tc(["del", "dev", self.device, "root"], missing_ok=True)
        self.mtu()
        self._sound = True
        return True

    def _set(self, name: str, rule: str | None, *, egress: bool = True) -> None:
        if rule is None:
            self._faults.pop(name, None)
        else:
            self._faults[name] = rule if egress else f"in {rule}"
        self._apply(self._faults)

    def _apply(self, faults: dict[str, str]) -> None:
        self._sound = False
        table = f"fault-{self.device}"
        lines = [f"add table netdev {table}", f"delete table netdev {table}", f"add table netdev {table}"]
        for hook in ("ingress", "egress"):
            lines.append(
                f"add chain netdev {table} {hook} "
                f'{{ type filter hook {hook} device "{self.device}" priority 0; policy accept; }}'
            )
            for rule in faults.values():
                if hook == "ingress" or not rule.startswith("in "):
                    lines.append(f"add rule netdev {table} {hook} {rule.removeprefix('in ')}")
        if not faults:
            lines = lines[:2]
        self._nft(lines)

    def _nft(self, lines: list[str]) -> None:
        self._feed(["nft", "-f", "-"], lines)

    def _ip(self, lines: list[str]) -> None:
        self._sound = False
        self._feed(["ip", "-batch", "-"], lines)

    def _feed(self, argv: list[str], lines: list[str]) -> None:
        """Give *lines* to a program on this network."""
        with entered(self.network):
            run(self.tools.argv(argv, network=True), stdin="\n".join(lines).encode() + b"\n", timeout_s=TOOL_S)

    def _tc(self, order: list[str], *, missing_ok: bool = False) -> None:
        self._sound = False
        with entered(self.network), contextlib.suppress(*((ProcessError,) if missing_ok else ())):
            run(self.tools.argv(["tc", "qdisc", *order], network=True), timeout_s=TOOL_S)


class NoNetemError(ImagebuilderError):
    """The kernel has no way to delay packets."""


@dataclass
class HomeLine(Link):
    """The line to the home router, by the router's end; it does what providers and routers do to it."""

    address: IPv4Interface
    """What the provider gave it at first."""
    gateway: IPv4Address
    _now: IPv4Interface = field(init=False)

    def __post_init__(self) -> None:
        self._now = self.address

    def change_address(self) -> IPv4Address:
        """Give the line another address of the provider's, as after a forced reconnect, and return it."""
        self._readdress(IPv4Interface((self._now.ip + 1, self._now.network.prefixlen)))
        return self._now.ip

    def rebind(self) -> None:
        """Forget every connection, and take other ports for them: what routers do when they restart or run full."""
        self._masquerade("masquerade fully-random")
        self._readdress(self._now)  # the kernel forgets what went by an address that is taken away

    def mend(self) -> bool:
        """Take everything back, the first address included; return whether there was anything."""
        if not self._sound:
            self._masquerade("masquerade")
            if self._now != self.address:
                self._readdress(self.address)
        return super().mend()

    def _readdress(self, new: IPv4Interface) -> None:
        self._ip(
            [
                f"address del {self._now} dev {self.device}",
                f"address add {new} dev {self.device}",
                f"route replace default via {self.gateway}",
            ]
        )
        self._now = new

    def _masquerade(self, how: str) -> None:
        self._nft(["flush chain ip nat after", f'add rule ip nat after oifname "{self.device}" {how}'])
