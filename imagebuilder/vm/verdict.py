"""An independent judge of arrived mail: SPF, DKIM and DMARC by other people's libraries, against the world's DNS."""

import warnings
from dataclasses import dataclass

import dkim  # type: ignore[import-untyped]
import spf  # type: ignore[import-untyped]
from authheaders import check_dmarc  # type: ignore[import-untyped]
from authres import DKIMAuthenticationResult, SPFAuthenticationResult  # type: ignore[import-untyped]

from imagebuilder.vm.host import Host
from imagebuilder.vm.mta import Received


@dataclass(frozen=True)
class Verdict:
    """What a receiver makes of a message; each is a result of RFC 8601, "pass" at best."""

    spf: str
    dkim: str
    dmarc: str
    dkim_domain: str
    """Domain that signed; empty when nobody did."""
    dkim_selector: str


def judge(received: Received, host: Host) -> Verdict:
    """Return what *host* makes of *received*, asking the name server from there."""
    with host.entered(), warnings.catch_warnings():
        # pyspf calls dnspython by a name of the past
        warnings.simplefilter("ignore", DeprecationWarning)
        spf_result, _ = spf.check2(i=received.client_address, s=received.sender, h=received.helo)
        signature = dkim.DKIM(received.raw)
        fields = {name.strip(): value.strip() for name, value in _signature(signature).items()}
        dkim_result = _checked(signature) if fields else "none"
        # RFC 7208 section 2.4: who sends a bounce is the postmaster of the server
        by_spf = SPFAuthenticationResult(
            result=spf_result, smtp_mailfrom=received.sender or f"postmaster@{received.helo}", smtp_helo=received.helo
        )
        by_dkim = DKIMAuthenticationResult(
            result=dkim_result, header_d=fields.get("d"), header_i=fields.get("i") or f"@{fields.get('d')}"
        )
        dmarc_result = check_dmarc(received.raw, by_spf, by_dkim)
    return Verdict(spf_result, dkim_result, str(dmarc_result.result), fields.get("d", ""), fields.get("s", ""))


def _checked(signed: dkim.DKIM) -> str:
    try:
        return "pass" if signed.verify() else "fail"
    except dkim.DKIMException:
        return "fail"


def _signature(message: dkim.DKIM) -> dict[str, str]:
    """Return the tags of the topmost signature of *message*."""
    for name, value in message.headers:
        if name.lower() == b"dkim-signature":
            text = value.decode(errors="replace")
            return dict(tag.split("=", 1) for tag in text.split(";") if "=" in tag)
    return {}
