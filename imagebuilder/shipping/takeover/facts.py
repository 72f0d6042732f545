"""What a running Linux says of itself: one script over there, and what its output means. Pure."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagebuilder.errors import ImagebuilderError
from imagebuilder.shipping.disks import COLUMNS, Disk, parsed
from imagebuilder.shipping.far_disk import OLD_COLUMNS

MARK = "=== "
"""Begins the line that names what the lines after it are about."""
PORT_25_S = 10
"""Longest wait for an answer from port 25 of another host."""
HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]*")

SCRIPT = r"""
about() { printf '=== %s\n' "$1"; }
about architecture; uname -m
about user; id -u
about memory; grep -E '^Mem(Total|Available):' /proc/meminfo
about container
systemd-detect-virt --container 2>/dev/null || { [ ! -e /proc/vz ] || [ -e /proc/bc ] || echo openvz; }
about machine; systemd-detect-virt --vm 2>/dev/null || cat /sys/class/dmi/id/sys_vendor 2>/dev/null || echo unknown
about firmware; if [ -d /sys/firmware/efi ]; then echo UEFI; else echo BIOS; fi
about secure-boot
od -An -tu1 -j4 -N1 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c 2>/dev/null || true
about kexec; cat /sys/kernel/kexec_loaded 2>/dev/null || true
about kexec-disabled; cat /proc/sys/kernel/kexec_load_disabled 2>/dev/null || true
about lockdown; cat /sys/kernel/security/lockdown 2>/dev/null || true
about selinux; cat /sys/fs/selinux/enforce 2>/dev/null || true
about systemd; [ ! -d /run/systemd/system ] || systemctl show --property=Version 2>/dev/null || true
about root; awk '$2 == "/" { fs = $3 } END { print fs }' /proc/mounts
about disks
lsblk --json --bytes --output @COLUMNS@ 2>/dev/null || lsblk --json --bytes --output @OLD_COLUMNS@ 2>/dev/null || true
about addresses; ip -details -json address show 2>/dev/null || true
about routes; ip -json -4 route show 2>/dev/null || true
about routes6; ip -json -6 route show 2>/dev/null || true
about resolvers; sed -n 's/^nameserver  *//p' /run/systemd/resolve/resolv.conf /etc/resolv.conf 2>/dev/null || true
about drivers
for card in /sys/class/net/*; do
    module=$card/device/driver/module
    [ ! -e "$module" ] || echo "${card##*/} $(basename "$(readlink -f "$module")")"
done
for disk in /sys/block/*; do
    place=$(readlink -f "$disk/device" 2>/dev/null) || continue
    while [ -n "$place" ] && [ "$place" != /sys/devices ]; do
        module=$(basename "$(readlink -f "$place/driver/module" 2>/dev/null)")
        case $module in
        "" | module | sd_mod | scsi_mod | nvme_core) place=${place%/*} ;;
        *) echo "${disk##*/} $module"; break ;;
        esac
    done
done
about missing
for program in tar cat dd sha256sum; do command -v "$program" >/dev/null || echo "$program"; done
"""

PORT_25 = r"""
about port-25
if command -v timeout >/dev/null && command -v bash >/dev/null; then
    if timeout @SECONDS@ bash -c 'read -r -t @SECONDS@ line <>/dev/tcp/"$0"/25 && [ -n "$line" ]' @HOST@ 2>/dev/null
    then echo open; else echo closed; fi
else echo unknown
fi
"""


@dataclass(frozen=True)
class Card:
    """A network interface."""

    name: str
    mac: str
    kind: str
    """Empty for hardware; bridge, vlan, bond, wireguard …"""
    master: str
    """The bridge or bond that it is part of; empty: none."""
    ethernet: bool
    mtu: int
    addresses: tuple[Mapping[str, Any], ...]
    """As ``ip -json`` has them."""


@dataclass(frozen=True)
class Facts:
    """A machine as it runs now."""

    architecture: str
    uid: int
    memory_bytes: int
    """What its kernel has."""
    free_bytes: int
    """Memory that programs could have now."""
    container: str
    """Which kind it is; empty: it has a kernel of its own."""
    machine: str
    """kvm, vmware, microsoft …, for people."""
    firmware: str
    """UEFI or BIOS."""
    secure_boot: bool
    can_kexec: bool
    """Whether its kernel knows kexec at all."""
    kexec_disabled: bool
    lockdown: str
    """none, integrity or confidentiality; empty: the kernel knows none."""
    enforcing: bool
    """Whether SELinux keeps to a policy."""
    systemd: int
    """Version of the systemd that is process 1; 0: another program is."""
    root: str
    """Type of the file system at /."""
    disks: tuple[Disk, ...]
    cards: tuple[Card, ...]
    routes: Mapping[int, tuple[Mapping[str, Any], ...]]
    """Of IPv4 (4) and IPv6 (6), as ``ip -json`` has them."""
    resolvers: tuple[str, ...]
    drivers: Mapping[str, str]
    """Module by the name of the network card or disk that it drives, with underscores."""
    missing: tuple[str, ...]
    """Programs that a take-over needs and that aren't there."""
    port_25: str = ""
    """open, closed, unknown; empty: not asked."""


def script(*, port_25: str | None = None) -> str:
    """Return the shell script that prints what `facts` reads; with *port_25* it tries that port of that host."""
    text = SCRIPT.replace("@COLUMNS@", COLUMNS).replace("@OLD_COLUMNS@", OLD_COLUMNS)
    if port_25 is None:
        return text
    if not HOST_NAME.fullmatch(port_25):
        raise ImagebuilderError(f"{port_25!r} is no host", hint="name a mail server of somebody: --port-25 HOST")
    return text + PORT_25.replace("@SECONDS@", str(PORT_25_S)).replace("@HOST@", shlex.quote(port_25))


def facts(said: str) -> Facts:
    """Return what the output of `script` means."""
    about = _sections(said)

    def line(name: str) -> str:
        return (about.get(name, "").strip().splitlines() or [""])[0].strip()

    memory = dict(re.findall(r"^(\w+):\s+(\d+)", about.get("memory", ""), re.MULTILINE))
    drivers = (words for text in about.get("drivers", "").splitlines() if len(words := text.split()) == 2)
    lockdown = re.search(r"\[(\w+)\]", about.get("lockdown", ""))
    systemd = re.search(r"\d+", line("systemd"))
    return Facts(
        architecture=line("architecture"),
        uid=int(line("user") or -1),
        memory_bytes=int(memory.get("MemTotal", 0)) * 1024,
        free_bytes=int(memory.get("MemAvailable", 0)) * 1024,
        container="" if line("container") == "none" else line("container"),
        machine="no virtual machine" if line("machine") == "none" else line("machine"),
        firmware=line("firmware"),
        secure_boot=line("secure-boot") == "1",
        can_kexec=bool(line("kexec")),
        kexec_disabled=line("kexec-disabled") == "1",
        lockdown=lockdown[1] if lockdown else "",
        enforcing=line("selinux") == "1",
        systemd=int(systemd[0]) if systemd else 0,
        root=line("root"),
        disks=parsed(text) if (text := about.get("disks", "").strip()) else (),
        cards=tuple(map(_card, _json(about.get("addresses", "")))),
        routes={4: tuple(_json(about.get("routes", ""))), 6: tuple(_json(about.get("routes6", "")))},
        resolvers=tuple(dict.fromkeys(about.get("resolvers", "").split())),
        drivers={name: module.replace("-", "_") for name, module in drivers},
        missing=tuple(about.get("missing", "").split()),
        port_25=line("port-25"),
    )


def _sections(said: str) -> dict[str, str]:
    """Return what was said, by what it is about."""
    found: dict[str, list[str]] = {}
    name = ""
    for text in said.splitlines():
        if text.startswith(MARK):
            name = text.removeprefix(MARK)
        else:
            found.setdefault(name, []).append(text)
    return {about: "\n".join(lines) for about, lines in found.items()}


def _json(text: str) -> list[dict[str, Any]]:
    return [entry for entry in json.loads(text) if entry] if text.strip() else []


def _card(entry: Mapping[str, Any]) -> Card:
    return Card(
        name=entry["ifname"],
        mac=entry.get("address", ""),
        kind=entry.get("linkinfo", {}).get("info_kind", ""),
        master=entry.get("master", ""),
        ethernet=entry.get("link_type") == "ether",
        mtu=int(entry.get("mtu", 1500)),
        addresses=tuple(address for address in entry.get("addr_info", ()) if address),
    )
