"""What every command that ships starts from: a generation that passed, and the secrets of one of its hosts."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import the_store
from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.generations import Generation, Generations
from imagebuilder.secrets.keys import Secrets, credentials, public_keys
from imagebuilder.secrets.vault import read_secrets
from imagebuilder.shipping import gate
from imagebuilder.shipping.gate import Cleared
from imagebuilder.shipping.provision import Provisioned, secrets_filesystem
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools
from imagebuilder.topology import PublicKeys, Role, load_public_keys, load_topology


@dataclass(frozen=True)
class Cargo:
    """An image that may leave, and what is added to it on the way."""

    cleared: Cleared
    tools: Tools
    given: Mapping[str, bytes] = field(repr=False)
    """Its host's secrets, by the names of their credentials."""

    @cached_property
    def filesystem(self) -> bytes:
        """The secrets as they are written to the disk."""
        return secrets_filesystem(self.tools, self.given, limit_bytes=self.cleared.image.secrets_size)

    def also(self, name: str, content: bytes) -> "Cargo":
        """Return the same with one more credential."""
        return replace(self, given={**self.given, name: content})

    def on_disk(self, disk_bytes: int | None = None) -> Provisioned:
        """Return it as it is written to a disk of that size, or of its own."""
        return Provisioned(self.cleared.image, self.filesystem, disk_bytes)


def cargo_arguments(parser: ArgumentParser) -> None:
    """Declare what names a cargo."""
    parser.add_argument("role", type=Role, choices=tuple(Role), metavar="ROLE", help="proxy or client")
    parser.add_argument("--generation", type=int, metavar="N", help="which build; left out: the newest")
    parser.add_argument("--untested", action="store_true", help="ship even what has not passed its test")


def generation_of(args: Namespace, store: Store) -> Generation:
    """Return the generation that *args* name, or the newest."""
    generations = Generations(store, args.topology)
    if args.generation is not None:
        return generations.find(args.generation)
    if (latest := generations.latest()) is None:
        load_topology(args.topology)  # a wrong path is told as such
        raise ImagebuilderError(f"nothing has been built from {args.topology} yet", hint="imagebuilder build")
    return latest


def cargo_of(args: Namespace) -> Cargo:
    """Return the cargo that *args* name, past the gate; the operator's secrets must be those it was built for."""
    store, files = the_store(), Files(args.topology)
    generation = generation_of(args, store)
    topology = load_topology(generation.topology)
    secrets = read_secrets(files.secrets)
    belongs(secrets, load_public_keys(generation.topology.with_suffix(".public.toml"), topology), generation)
    cleared = gate.clear(store, generation, args.role, untested=args.untested)
    tools = Tools(gate.tools_tree(store, generation))
    return Cargo(cleared, tools, credentials(secrets, topology, args.role))


class ForeignSecretsError(ImagebuilderError):
    """The secrets are those of another topology."""

    status = ExitStatus.WRONG_INPUT


def belongs(secrets: Secrets, public: PublicKeys, generation: Generation) -> None:
    """Raise ForeignSecretsError unless *secrets* are the other halves of the keys that *generation* was built with."""
    own = public_keys(secrets)
    wrong = [f"the WireGuard key of the {role}" for role in Role if own.wireguard.of(role) != public.wireguard.of(role)]
    wrong += [f"the SSH host key of the {role}" for role in Role if own.ssh.of(role) != public.ssh.of(role)]
    if public.tls and own.tls != public.tls:
        wrong.append("the TLS key of the proxy")
    for domain, selectors in public.dkim.items():
        for selector, key in selectors.items():
            if own.dkim.get(domain, {}).get(selector) != key:
                wrong.append(f"the DKIM key {selector!r} of {domain}")
    if wrong:
        raise ForeignSecretsError(
            f"the secrets don't belong to generation {generation.number}: {', '.join(wrong)} would not fit",
            hint="build and test again after a rotation, or name the generation that they belong to: --generation N",
        )
