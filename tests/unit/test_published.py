"""How published records are judged."""

import pytest

from imagebuilder.dns.published import State, has_it, has_it_alone, permits, says_it, tags
from imagebuilder.dns.records import Record, txt


def text_record(text: str) -> Record:
    return Record("example.org.", "TXT", txt(text), "a test")


@pytest.mark.parametrize(
    ("published", "state"),
    [
        (["v=spf1 mx -all"], State.GOOD),
        (["google-site-verification=x", "v=spf1 mx -all"], State.GOOD),
        (["v=spf1 mx include:_spf.example.net ~all"], State.GOOD),
        (["v=spf1 include:_spf.example.net -all"], State.WRONG),
        (["v=spf1 mx +all"], State.WRONG),
        (["v=spf1 mx -all", "v=spf1 a -all"], State.WRONG),
        (["something else"], State.MISSING),
        ([], State.MISSING),
    ],
)
def test_spf_may_permit_more_than_we_need_but_not_everybody(published: list[str], state: State) -> None:
    assert says_it(text_record("v=spf1 mx -all"), published)[0] is state


def test_dkim_is_judged_by_its_key_not_by_its_blanks() -> None:
    wanted = text_record("v=DKIM1; k=rsa; p=ABCDEF")

    assert says_it(wanted, ["v=DKIM1;k=rsa;p=ABC DEF;"])[0] is State.GOOD
    assert says_it(wanted, ["v=DKIM1; k=rsa; p=ABCDEX"])[0] is State.WRONG


def test_a_weak_dmarc_policy_is_wrong_and_foreign_reports_are_not() -> None:
    wanted = text_record("v=DMARC1; p=reject; rua=mailto:postmaster@example.org")

    assert says_it(wanted, ["v=DMARC1; p=quarantine; rua=mailto:x@reports.example"])[0] is State.GOOD
    assert says_it(wanted, ["v=DMARC1; p=none"])[0] is State.WRONG


def test_a_second_address_or_mx_is_named_for_removal() -> None:
    wanted = Record("example.org.", "MX", "10 mail.example.org.", "a test")

    assert has_it_alone(wanted, ["10 MAIL.example.org."]) == (State.GOOD, "")
    state, said = has_it_alone(wanted, ["10 mail.example.org.", "20 old.example.net."])
    assert state is State.WRONG
    assert said == "remove '20 old.example.net.'"


def test_a_tlsa_record_of_another_key_alone_is_wrong() -> None:
    wanted = Record("_25._tcp.mail.example.org.", "TLSA", "3 1 1 aa", "a test", required=False)

    assert has_it(wanted, ["3 1 1 AA", "3 1 1 bb"])[0] is State.GOOD
    assert has_it(wanted, ["3 1 1 bb"])[0] is State.WRONG
    assert has_it(wanted, [])[0] is State.MISSING


def test_caa_that_permits_others_alone_forbids_our_certificates() -> None:
    wanted = Record("mail.example.org.", "CAA", '0 issue "letsencrypt.org"', "a test", required=False)

    assert permits(wanted, ['0 iodef "mailto:a@example.org"'])[0] is State.MISSING
    assert permits(wanted, ['0 issue "other.example"'])[0] is State.WRONG
    assert permits(wanted, ['0 issue "other.example"', '0 issue "letsencrypt.org"'])[0] is State.GOOD


def test_tags_are_read_without_blanks() -> None:
    assert tags("v=DKIM1 ; p = A B C ;") == {"v": "DKIM1", "p": "ABC"}
