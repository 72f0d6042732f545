"""The administrator's way in, which is nobody else's."""

# ruff: noqa: D103 (the name of a test is its sentence)

import struct

import pytest

from imagebuilder.topology import Topology
from imagebuilder.vm.inside import Inside
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.session import Session
from imagebuilder.vm.surroundings import Outside

SSH = "ssh -F none -o BatchMode=yes -o UserKnownHostsFile=/run/bed-hosts -o StrictHostKeyChecking=yes"
KEXINIT = 20
OLD_WORDS = (
    "sha1",
    "cbc",
    "3des",
    "arcfour",
    "md5",
    "ssh-dss",
    "ssh-rsa",
    "group1-",
    "group14",
    "nistp",
    "umac",
    "none",
)
"""Parts of the names of what nobody should speak any more, or has no need of."""


def offers(world: Outside, topology: Topology, within_s: float) -> list[list[str]]:
    """Return the lists of algorithms that the proxy offers before anybody has logged in (RFC 4253 section 7.1)."""
    with world.stranger.connect(topology.proxy.ipv4.ip, 22, within_s=within_s) as connection:
        stream = connection.makefile("rb")
        stream.readline()
        connection.sendall(b"SSH-2.0-bed\r\n")
        length, padding = struct.unpack("!IB", stream.read(5))
        packet = stream.read(length - 1)[: length - 1 - padding]
    assert packet[0] == KEXINIT
    rest, lists = packet[17:], []
    for _ in range(8):
        (size,) = struct.unpack("!I", rest[:4])
        lists.append(rest[4 : 4 + size].decode().split(","))
        rest = rest[4 + size :]
    return lists


def known_hosts(bed: Session, topology: Topology) -> str:
    """Return the lines by which a program knows both hosts, as the topology's public file has them."""
    keys = bed.world.public.ssh
    return f"{topology.proxy.ipv4.ip} {keys.proxy}\n{topology.tunnel.client_address} {keys.client}\n"


@pytest.mark.gentle
@pytest.mark.settled
def test_ssh_speaks_modern_algorithms_only(pair: object, world: Outside, topology: Topology, proxy: Inside) -> None:
    exchange, host_keys, ciphers, back, macs, macs_back, *_ = offers(world, topology, proxy.patience.seconds(10))

    spoken = [*exchange, *host_keys, *ciphers, *back, *macs, *macs_back]
    assert [name for name in spoken if any(word in name for word in OLD_WORDS)] == []
    assert host_keys == ["ssh-ed25519"]
    assert any(name.startswith(("mlkem768", "sntrup761")) for name in exchange)


@pytest.mark.settled
def test_ssh_asks_nobody_for_a_password(client: Machine, bed: Session, topology: Topology) -> None:
    client.write_file("/run/bed-hosts", known_hosts(bed, topology).encode())  # from home, as any host elsewhere

    for user in ("root", "admin"):
        said = client.fail(f"{SSH} -o PreferredAuthentications=none {user}@{topology.proxy.ipv4.ip} true")
        assert "Permission denied (publickey)" in said


@pytest.mark.settled
def test_the_administrators_key_opens_the_proxy_and_by_it_the_client(
    proxy: Machine, client: Machine, bed: Session, topology: Topology
) -> None:
    client.write_file("/run/bed-hosts", known_hosts(bed, topology).encode())
    client.succeed("ssh-keygen -q -t ed25519 -N '' -f /run/bed-key")
    public = client.read_file("/run/bed-key.pub")
    for machine in (proxy, client):  # the topology's own keys are in the images; this one lies over them
        machine.write_file("/run/bed-keys", public)
        machine.succeed("mount --bind /run/bed-keys /etc/ssh/authorized_keys.d/root")
    ssh = f"{SSH} -i /run/bed-key"

    assert client.succeed(f"{ssh} root@{topology.proxy.ipv4.ip} hostname -f").strip() == topology.proxy.hostname
    jump = f"{ssh} -W {topology.tunnel.client_address}:22 root@{topology.proxy.ipv4.ip}"
    reached = client.succeed(f"{ssh} -o ProxyCommand='{jump}' root@{topology.tunnel.client_address} hostname -f")
    assert reached.strip() == topology.client.hostname
    client.fail(f"{ssh} -W 127.0.0.1:25 root@{topology.proxy.ipv4.ip} </dev/null")  # leads nowhere else
