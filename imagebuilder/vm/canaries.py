"""What to look for where no secret may be. Pure."""

PRIVATE_PART = {"ssh": slice(216, 256), "tls": slice(50, 88)}
"""Where the base64 of these keys is neither the same for all nor public; of all others the end is neither."""


def piece(name: str, value: str) -> bytes:
    """Return a piece of the secret *value* that no chance repeats, and that is not public."""
    body = "".join(line for line in value.splitlines() if "-----" not in line)
    return body[PRIVATE_PART.get(name.partition("/")[0], slice(-42, -2))].encode()
