"""Host names, mail addresses and networks as an operator may write them; each refusal is a sentence. Pure."""

import re
from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)
from pathlib import PurePosixPath
from typing import Annotated, TypeVar
from unicodedata import category

from pydantic import AfterValidator, BeforeValidator, Strict, StringConstraints
from pydantic_core import PydanticCustomError

REFUSED = "refused"
"""Type of the validation errors whose text is a finished sentence of ours."""

Address = TypeVar("Address", IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)

MAX_NAME = 253
MAX_LABEL = 63
# RFC 5321 section 4.5.3.1, and RFC 3696 erratum 1690 for the whole
MAX_LOCAL_PART = 64
MAX_MAIL_ADDRESS = 254
MAX_SHOWN = 60

# RFC 1123 section 2.1
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
# RFC 5321 section 4.1.2, the dot-string form without quoting
ATOM = r"[A-Za-z0-9!#$%&'*/=?^_`{|}~+-]+"
DOT_STRING = re.compile(rf"{ATOM}(\.{ATOM})*")
# Characters that IDNA 2008 keeps and Python's codec (IDNA 2003) maps to others, so that another domain would result
DEVIATIONS = re.compile("[\u00df\u1e9e\u03c2\u200c\u200d]")

# Hyphen, the Catalan middle dot, and the four full stops of RFC 3490 section 3.1
SEPARATORS = "-\u00b7.\u3002\uff0e\uff61"


def refused(sentence: str) -> PydanticCustomError:
    """Return the exception that makes *sentence* a problem of the value that is being validated."""
    # the sentence travels as an argument, as pydantic fills in braces of the template
    return PydanticCustomError(REFUSED, "{sentence}", {"sentence": sentence})


def shown(value: object) -> str:
    """Return *value* for a message: short, in one line, and never a private key."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > MAX_LABEL:
        return "a number far too large"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, str):
        if "PRIVATE KEY" in value.upper() or "b3BlbnNzaC1rZXktdjE" in value:
            return "a private key (not repeated here)"
        return repr(value if len(value) <= MAX_SHOWN else f"{value[: MAX_SHOWN - 1]}…")
    return str(value)


def host_name(value: str) -> str:
    """Return *value* as a lower-case host name, internationalised labels as A-labels."""
    name = a_labels(value).lower()
    if name.endswith("."):
        raise refused(f"{shown(value)}: write it without the dot at its end")
    if len(name) > MAX_NAME:
        raise refused(f"{shown(value)}: a host name has at most {MAX_NAME} characters")
    labels = name.split(".")
    for label in labels:
        if len(label) > MAX_LABEL:
            raise refused(f"{shown(value)}: a part between dots has at most {MAX_LABEL} characters")
        if not LABEL.fullmatch(label):
            raise refused(
                f"{shown(value)} is no host name: letters, digits and hyphens between dots, as in 'mail.example.org'"
            )
    if labels[-1].isdigit():
        raise refused(f"{shown(value)} is an address, and a host name is wanted")
    if len(labels) < 2:
        raise refused(f"{shown(value)} has no domain: a full name is wanted, as in 'mail.example.org'")
    return name


def a_labels(value: str) -> str:
    """Return *value* with internationalised labels in their ASCII form (RFC 5890, A-labels)."""
    if value.isascii():
        return value
    if DEVIATIONS.search(value):
        raise refused(f"{shown(value)} has a letter that programs convert differently: write its xn-- form")
    if not all(character.isalnum() or category(character)[0] == "M" or character in SEPARATORS for character in value):
        raise refused(f"{shown(value)} is no host name: it has a character that is neither letter nor digit")
    try:
        return value.encode("idna").decode("ascii")
    except UnicodeError:
        raise refused(f"{shown(value)} is no host name, not even an internationalised one") from None


def mail_address(value: str) -> str:
    """Return *value* as a lower-case mail address, the domain in A-labels."""
    local_part, at, domain = value.rpartition("@")
    if not at:
        raise refused(f"{shown(value)} is no mail address: it has no @")
    if not local_part.isascii():
        raise refused(f"{shown(value)}: before the @ only ASCII letters can be used")
    if not DOT_STRING.fullmatch(local_part):
        raise refused(f"{shown(value)}: {shown(local_part)} can't stand before the @")
    if len(local_part) > MAX_LOCAL_PART:
        raise refused(f"{shown(value)}: at most {MAX_LOCAL_PART} characters may stand before the @")
    address = f"{local_part.lower()}@{host_name(domain)}"
    if len(address) > MAX_MAIL_ADDRESS:
        raise refused(f"{shown(value)}: a mail address has at most {MAX_MAIL_ADDRESS} characters")
    return address


def text(value: str) -> str:
    """Return *value* when it is more than white space, and free of control characters."""
    if not value.strip():
        raise refused("is empty; leave the key out instead")
    if any(character < " " and character not in "\t\r\n" for character in value) or "\x7f" in value:
        raise refused("has a control character in it")
    return value


def https_url(value: str) -> str:
    """Return *value* when it is an https URL that can stand unquoted in a daemon's file."""
    found = re.fullmatch(r"https://([^/?#:@\s]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~/%+=@:-]*)?", value)
    if not found:
        raise refused(f"{shown(value)} is no https URL, as in 'https://acme.example.org/directory'")
    if not found[1].replace(".", "").isdigit():
        host_name(found[1])
    return value


def disk(value: object) -> PurePosixPath:
    """Return *value* as the path of a block device."""
    if isinstance(value, PurePosixPath):
        return value
    if not isinstance(value, str) or not re.fullmatch(r"/dev(/[A-Za-z0-9:._+=@-]+)+", value) or "/.." in value:
        raise refused(f"{shown(value)} is no disk, as in '/dev/vda'")
    return PurePosixPath(value)


def pem(value: object) -> PurePosixPath:
    """Return *value* as the path of a file that stands beside the topology."""
    if isinstance(value, PurePosixPath):
        return value
    if not isinstance(value, str) or not value.isprintable() or not value.strip():
        raise refused(f"{shown(value)} is no path of a PEM file, as in 'root.pem'")
    if "BEGIN" in value:
        raise refused("is the text of a PEM file; its path is wanted, as in 'root.pem'")
    return PurePosixPath(value)


def _parsed(kind: type[Address], example: str) -> Callable[[object], Address]:
    """Return the function that reads a *kind* from a string, and from nothing else."""
    with_prefix = not issubclass(kind, IPv4Address | IPv6Address) or issubclass(kind, IPv4Interface | IPv6Interface)
    version = 4 if issubclass(kind, IPv4Address | IPv4Network) else 6

    def parse(value: object) -> Address:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            raise refused(f"{shown(value)}: a string is wanted, as in {example!r}")
        address, slash, prefix = value.partition("/")
        try:
            plain = ip_address(address)
        except ValueError:
            raise refused(f"{shown(value)} is no IPv{version} address; one looks like {example!r}") from None
        if plain.version != version or "%" in address:
            raise refused(f"{shown(value)}: a plain IPv{version} address is wanted, as in {example!r}")
        if not with_prefix and slash:
            raise refused(f"{shown(value)}: only the address, without the length of a prefix")
        if with_prefix and not (re.fullmatch("[0-9]{1,3}", prefix) and int(prefix) <= plain.max_prefixlen):
            raise refused(f"{shown(value)}: the length of the prefix is missing or impossible, as in {example!r}")
        try:
            return kind(value)
        except ValueError:  # a network's only remaining fault
            inside = ip_interface(value).network
            raise refused(f"{shown(value)} is an address in a network; did you mean '{inside}'?") from None

    return parse


# What the topology's fields are made of. TOML has types, so nothing is converted: "25" is no number.
def network(value: object) -> IPv4Network | IPv6Network:
    """Return *value*, a network of either version."""
    if isinstance(value, IPv6Network) or (isinstance(value, str) and ":" in value):
        return _parsed(IPv6Network, "2001:db8:7::/48")(value)
    return _parsed(IPv4Network, "203.0.113.0/24")(value)


HostName = Annotated[str, AfterValidator(host_name)]
MailAddress = Annotated[str, AfterValidator(mail_address)]
Selector = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Provider = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,32}$")]
Text = Annotated[str, AfterValidator(text)]
HttpsUrl = Annotated[str, AfterValidator(https_url)]
Whole = Annotated[int, Strict()]
Switch = Annotated[bool, Strict()]
HostV4 = Annotated[IPv4Interface, BeforeValidator(_parsed(IPv4Interface, "198.51.100.10/24"))]
HostV6 = Annotated[IPv6Interface, BeforeValidator(_parsed(IPv6Interface, "2001:db8::10/64"))]
RouterV4 = Annotated[IPv4Address, BeforeValidator(_parsed(IPv4Address, "198.51.100.1"))]
RouterV6 = Annotated[IPv6Address, BeforeValidator(_parsed(IPv6Address, "fe80::1"))]
NetworkV4 = Annotated[IPv4Network, BeforeValidator(_parsed(IPv4Network, "10.0.0.0/24"))]
NetworkV6 = Annotated[IPv6Network, BeforeValidator(_parsed(IPv6Network, "fd3b:9c0e:52a7::/64"))]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(network)]
Disk = Annotated[PurePosixPath, BeforeValidator(disk)]
Pem = Annotated[PurePosixPath, BeforeValidator(pem)]
