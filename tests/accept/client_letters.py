"""What passes between the client and those who talk to it. Pure but for the clock."""

import socket
import ssl
import struct
import time
from email.utils import formatdate

from aiosmtpd.smtp import Envelope

USER = "198.51.100.77"
"""The roaming user's address."""


def content_of(envelope: Envelope) -> bytes:
    """Return the content as it came."""
    content = envelope.original_content
    assert content is not None
    return content


def no_questions() -> ssl.SSLContext:
    """Return a TLS context that takes the self-signed certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def only(ciphers: str) -> ssl.SSLContext:
    """Return a context of TLS 1.2 with nothing but *ciphers*, however old."""
    context = no_questions()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    return context


def proxy_header(source: str, port: int) -> bytes:
    """Return a PROXY header, version 2, of a TCP connection over IPv4 from *source* to the proxy's *port*."""
    addresses = socket.inet_aton(source) + socket.inet_aton("198.18.0.10") + struct.pack("!HH", 40000, port)
    return b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + struct.pack("!H", len(addresses)) + addresses


def letter(sender: str, to: str, subject: str, text: str, headers: str = "") -> bytes:
    """Return a mail; *headers* are further lines of its header."""
    identity = f"{time.monotonic_ns()}@{sender.rpartition('@')[2].rstrip('>')}"
    lines = f"From: {sender}\nTo: {to}\nSubject: {subject}\nDate: {formatdate()}\nMessage-ID: <{identity}>\n"
    return f"{lines}MIME-Version: 1.0\n{headers}\n{text}".replace("\n", "\r\n").encode()
