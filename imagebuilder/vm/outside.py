"""What commands on the outside hosts are told of the pair. Pure."""

from imagebuilder.vm.host import Host
from imagebuilder.vm.readiness import receiving_mailbox
from imagebuilder.vm.session import Session


def command_environment(running: Session, host: Host) -> dict[str, str]:
    """Return what a command on the outside host *host* finds in its environment."""
    topology, places = running.subject.topology, running.world.places
    mailbox = receiving_mailbox(topology)
    # The client itself for its neighbours; for everybody else, what they can reach of home: the line's public side.
    home = places.client.ipv4.ip if host == running.world.lan else places.home.ipv4.ip
    return {
        "IMAGEBUILDER_MAIL_HOST": topology.proxy.hostname,
        "IMAGEBUILDER_PROXY_IPV4": str(topology.proxy.ipv4.ip),
        "IMAGEBUILDER_PROXY_IPV6": str(topology.proxy.ipv6.ip) if topology.proxy.ipv6 else "",
        "IMAGEBUILDER_HOME_IPV4": str(home),
        "IMAGEBUILDER_MAILBOX": mailbox,
        "IMAGEBUILDER_PASSWORD": running.passwords[mailbox],
    }
