"""One module per service: which values its overlay may refer to. Pure."""

from imagebuilder.services import (
    acme,
    ban_door,
    ban_report,
    caddy,
    certificate,
    clamav,
    dovecot,
    firewall_client,
    firewall_proxy,
    guests,
    haproxy,
    haraka_in,
    haraka_out,
    network_client,
    network_proxy,
    postfix,
    postsrsd,
    rspamd,
    sshd,
    system,
    tls_report,
    tls_results,
    tunnel,
    tunnel_way,
    unbound,
    valkey,
)
from imagebuilder.services.base import Service, Site, Values

SERVICES: tuple[Service, ...] = (
    # both hosts
    system.SERVICE,
    tunnel.SERVICE,
    unbound.SERVICE,
    sshd.SERVICE,
    certificate.SERVICE,
    # the proxy, from the outside in
    network_proxy.SERVICE,
    firewall_proxy.SERVICE,
    haproxy.SERVICE,
    ban_door.SERVICE,
    caddy.SERVICE,
    haraka_in.SERVICE,
    haraka_out.SERVICE,
    tls_results.SERVICE,
    # the client, in the order that a message takes
    network_client.SERVICE,
    tunnel_way.SERVICE,
    firewall_client.SERVICE,
    guests.SERVICE,
    postfix.SERVICE,
    postsrsd.SERVICE,
    rspamd.SERVICE,
    clamav.SERVICE,
    valkey.SERVICE,
    dovecot.SERVICE,
    acme.SERVICE,
    ban_report.SERVICE,
    tls_report.SERVICE,
)

__all__ = ["SERVICES", "Service", "Site", "Values"]
