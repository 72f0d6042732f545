"""What small servers say of themselves: the output of the facts' script, piece by piece."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagebuilder.shipping.takeover.facts import Facts, facts
from imagebuilder.shipping.takeover.preflight import Wanted
from imagebuilder.topology import load_topology
from imagebuilder.topology.model import Proxy

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"
MAC = "52:54:00:12:34:56"
DISK_BYTES = 10 * 10**9

LOOPBACK = {
    "ifname": "lo", "link_type": "loopback", "address": "00:00:00:00:00:00", "mtu": 65536,
    "addr_info": [{"family": "inet", "local": "127.0.0.1", "prefixlen": 8, "scope": "host"}],
}  # fmt: skip


def address(local: str, prefix: int, **further: object) -> dict[str, Any]:
    """Return an address as ``ip -json`` prints it."""
    return {"family": "inet6" if ":" in local else "inet", "local": local, "prefixlen": prefix, "scope": "global"} | {
        **further
    }


def card(*addresses: Mapping[str, Any], name: str = "eth0", **further: object) -> dict[str, Any]:
    """Return a network card as ``ip -details -json`` prints it."""
    return {
        "ifname": name, "link_type": "ether", "address": MAC, "mtu": 1500, "addr_info": list(addresses), **further
    }  # fmt: skip


def default(gateway: str | None, dev: str = "eth0", **further: object) -> dict[str, Any]:
    """Return a default route."""
    return {"dst": "default", "dev": dev, **({"gateway": gateway} if gateway else {}), **further}


STATIC = card(
    address("198.18.0.10", 24),
    address("2001:2:0:1::10", 64),
    address("fe80::5054:ff:fe12:3456", 64, scope="link"),
)
ROUTES = [default("198.18.0.1"), {"dst": "198.18.0.0/24", "dev": "eth0", "scope": "link"}]
ROUTES6 = [default("2001:2:0:1::1"), {"dst": "fe80::/64", "dev": "eth0"}]


def lsblk(*names: str, size: int = DISK_BYTES) -> str:
    """Return what lsblk prints of disks that a system runs from."""

    def node(name: str, kind: str, place: str | None, children: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "path": f"/dev/{name}", "type": kind, "size": size, "model": None, "serial": None, "tran": "virtio",
            "ro": False, "log-sec": 512, "pttype": "gpt", "fstype": "ext4" if place else None, "label": None,
            "partlabel": None, "mountpoints": [place], "children": children,
        }  # fmt: skip

    return json.dumps(
        {"blockdevices": [node(name, "disk", None, [node(f"{name}1", "part", "/", [])]) for name in names]}
    )


def said(**about: str) -> str:
    """Return what an ordinary Debian of 1 GB says, but for what *about* has."""
    text = {
        "architecture": "x86_64",
        "user": "0",
        "memory": "MemTotal:         989184 kB\nMemAvailable:     764000 kB",
        "container": "none",
        "machine": "kvm",
        "firmware": "UEFI",
        "secure_boot": "   0",
        "kexec": "0",
        "kexec_disabled": "0",
        "lockdown": "[none] integrity confidentiality",
        "selinux": "",
        "systemd": "Version=257.9-1~deb13u1",
        "root": "ext4",
        "disks": lsblk("vda"),
        "addresses": json.dumps([LOOPBACK, STATIC]),
        "routes": json.dumps(ROUTES),
        "routes6": json.dumps(ROUTES6),
        "resolvers": "198.19.0.53",
        "drivers": "eth0 virtio_net\nvda virtio-blk",
        "missing": "",
    } | about
    return "".join(f"=== {name.replace('_', '-')}\n{lines}\n" for name, lines in text.items())


def stock(**about: str) -> Facts:
    """Return the facts of `said`."""
    return facts(said(**about))


def proxy(**further: object) -> Proxy:
    """Return the reference topology's proxy with some of it otherwise."""
    return Proxy.model_validate(load_topology(REFERENCE).proxy.model_dump(mode="json") | further)


def wanted(**further: object) -> Wanted:
    """Return what the reference topology wants of a machine."""
    plain: dict[str, Any] = {
        "proxy": proxy(),
        "disk_bytes": 3 * 10**9,
        "drivers": frozenset({"virtio_net", "virtio_blk"}),
        "unpacked_bytes": 97 * 10**6,
    }
    return Wanted(**(plain | further))
