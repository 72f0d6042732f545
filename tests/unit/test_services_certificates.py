"""Where certificates come from, and what follows from the topology for that."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from imagebuilder.render import render_role
from imagebuilder.secrets.keys import credentials, new_secrets, public_keys
from imagebuilder.secrets.rotation import imported
from imagebuilder.services import Site
from imagebuilder.services.acme import acme_values
from imagebuilder.services.certificate import caddy_folder, certificate_values
from imagebuilder.topology import Role, Topology, load_topology
from imagebuilder.topology.load import judged
from imagebuilder.vm.authority import Issuer

REFERENCE = Path(__file__).parent.parent / "topologies/reference.toml"
LETTERS = "acme-v02.api.letsencrypt.org"


def with_acme(**acme: Any) -> dict[str, Any]:  # noqa: ANN401
    return {**tomllib.loads(REFERENCE.read_text()), "acme": acme}


def topology(**acme: Any) -> Topology:  # noqa: ANN401
    found, problems = judged(with_acme(**acme))
    assert found is not None, problems
    return found


def site(topology: Topology, role: Role = Role.CLIENT) -> Site:
    return Site(topology, public_keys(new_secrets(topology)), role)


@pytest.mark.parametrize(
    ("directory", "folder"),
    [
        (f"https://{LETTERS}/directory", f"{LETTERS}-directory"),
        ("https://acme.example.org:14000/dir", "acme.example.org-14000-dir"),
        ("https://ca.example.org/acme/Main/directory", "ca.example.org-acme-main-directory"),
    ],
)
def test_caddys_folder_is_named_as_caddy_names_it(directory: str, folder: str) -> None:
    found = caddy_folder(topology(directory=directory))

    assert found == f"/var/lib/caddy/data/caddy/certificates/{folder}/mail.example.org"


def test_each_host_takes_its_own_certificate_up() -> None:
    proxy, client = (certificate_values(site(topology(), role)) for role in (Role.PROXY, Role.CLIENT))

    assert proxy.chain.startswith("/var/lib/caddy/")
    assert client.chain == "/var/lib/acme/certificates/mail.example.org.crt"
    assert (proxy.reloaded, client.reloaded) == ((), ("postfix.service", "dovecot.service"))


def test_the_client_proves_itself_through_the_proxy_or_by_dns() -> None:
    assert acme_values(site(topology())).challenge == "--http --http.port 10.0.0.2:8402"
    assert acme_values(site(topology(dns_provider="hetzner"))).challenge.startswith("--dns hetzner ")


def test_a_dns_token_is_a_secret_of_the_client_alone_and_only_when_asked_for() -> None:
    by_dns = topology(dns_provider="hetzner")
    secrets = imported(new_secrets(by_dns), "tokens/acme.hetzner_api_key", "to ken$\n")
    secrets = imported(secrets, "tokens/other", "of a provider of disks")

    assert credentials(secrets, by_dns, Role.CLIENT)["acme.env"] == b"HETZNER_API_KEY='to ken$'\n"
    assert "acme.env" not in credentials(secrets, by_dns, Role.PROXY)
    assert "acme.env" not in credentials(secrets, topology(), Role.CLIENT)


def test_the_root_of_a_private_authority_is_part_of_both_images(tmp_path: Path) -> None:
    issuer, other = Issuer.new(), Issuer.new()
    file = tmp_path / "topology.toml"
    file.write_text(tomli_w.dumps(with_acme(directory="https://ca.example.org/dir", ca_root="root.pem")))
    trees = []
    for each in (issuer, other):
        (tmp_path / "root.pem").write_text(f"a remark\n{each.pem}")
        found = load_topology(file)
        keys = public_keys(new_secrets(found))
        trees.append({role: render_role(Site(found, keys, role)) for role in Role})

    for role in Role:
        pems = [
            next(content.content for path, content in tree[role].files.items() if str(path) == "etc/ssl/acme-root.pem")
            for tree in trees
        ]
        assert issuer.pem.strip() in pems[0].decode()
        assert other.pem.strip() in pems[1].decode()
    assert acme_values(site(load_topology(file))).roots == "/etc/ssl/acme-root.pem"
