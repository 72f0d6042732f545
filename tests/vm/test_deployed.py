"""`test --deployed` runs the gentle tests against hosts that it reaches as operators do, and leaves nothing there."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import build_recorded
from imagebuilder.commands.sources import sources_of_environment, the_store
from imagebuilder.init import public_text
from imagebuilder.runs.history import History
from imagebuilder.secrets.vault import read_secrets, write_secrets
from imagebuilder.vm.identity import bed_credentials, identity_of
from imagebuilder.vm.names import STRANGER_DOMAIN
from imagebuilder.vm.namespace import inside
from imagebuilder.vm.session import Session, Subject, kept_root, session
from tests.unit.keys import ssh_pair

pytestmark = pytest.mark.vm

LEFT = "ls /run/guests /var/vmail/* /run | grep -e guest- -e imagebuilder-test; cat /run/guests/*"
"""What a client shows of guests, and of us."""
SSHD = """\
[Service]
ExecStart=
ExecStart=/usr/sbin/sshd -D -o HostKey=%d/ssh.hostkey -o AuthorizedKeysFile=/run/bed-keys
"""


@pytest.fixture
def subject(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Subject]:
    """The topology that --topology names, with secrets as its machines in the bed have them."""
    path = pytestconfig.getoption("--topology")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("--topology names none")
    files, store = Files(tmp_path / "topology.toml"), the_store()
    shutil.copy(path, files.topology)
    shutil.copy(path.with_suffix(".lock"), files.lock)
    topology, public, _ = Files(path).read()
    secrets = read_secrets(Files(path).secrets)
    identity = identity_of(kept_root(store.root, tmp_path) / "identities", topology, secrets)
    credentials = bed_credentials(identity, topology, secrets, public)
    files.public.write_text(public_text(credentials.public))
    write_secrets(files.secrets, credentials.secrets)
    built, _ = build_recorded(files, store, sources_of_environment())
    folder = History(store).new_run()
    yield Subject(built.images, topology, credentials.public, built.tools, folder, credentials.secrets, store.root)
    shutil.rmtree(folder, ignore_errors=True)


def let_in(bed: Session, key: str) -> None:
    """Make *key* the administrator's on both machines, whose image knows nobody's and stays as it is."""
    for machine in bed.fresh().machines.values():
        machine.write_file("/run/bed-keys", f"{key}\n".encode())
        machine.succeed("mkdir -p /run/systemd/system/ssh.service.d")
        machine.write_file("/run/systemd/system/ssh.service.d/zz-bed.conf", SSHD.encode())
        machine.succeed("systemctl daemon-reload; systemctl restart ssh")


@pytest.mark.parametrize(
    ("expression", "least"),
    [
        pytest.param("reaches_the_inbox or arrives_outside or sealed or real_address or udp", 8, id="some"),
        pytest.param("", 70, id="all", marks=pytest.mark.nightly),
    ],
)
def test_deployed_hosts_stand_the_gentle_tests_and_look_afterwards_as_before(
    subject: Subject, tmp_path: Path, expression: str, least: int
) -> None:
    key = ssh_pair(tmp_path / "admin")
    (tmp_path / "admin").chmod(0o600)

    def work() -> None:
        with session(subject) as bed:
            let_in(bed, key)
            client = bed.booted().client
            before = client.execute(LEFT).text
            bed.server.stop()  # its port is wanted
            (tmp_path / "root.pem").write_text(bed.world.issuer.pem)
            (tmp_path / "mx.pem").write_bytes(bed.world.certificate)
            argv = [sys.executable, "-m", "imagebuilder", "test", "--json", "-t", str(tmp_path / "topology.toml")]
            argv += ["-k", expression] if expression else []
            argv += ["--deployed", "--identity", str(tmp_path / "admin"), "--as", STRANGER_DOMAIN]
            argv += ["--certificate", str(tmp_path / "mx.pem"), "--patience", str(bed.accelerator.patience.factor)]
            own = {name: value for name, value in os.environ.items() if name.startswith("IMAGEBUILDER_")}
            env = own | {"SSL_CERT_FILE": str(tmp_path / "root.pem"), "PYTHONPATH": str(Path(__file__).parents[2])}

            done = bed.world.stranger.run(argv, env=env, timeout_s=bed.accelerator.patience.seconds(120))

            said = done.stderr.decode(errors="replace")
            assert done.returncode == 0, said[-6000:]
            told = json.loads(done.stdout)
            outcomes = {test["id"].rpartition("::")[2]: test["outcome"] for test in told["tests"]}
            assert told["verdict"] == "partial"
            assert told["attestation"] is None
            assert told["deployed"]
            assert len(outcomes) >= least
            assert set(outcomes.values()) == {"passed"}, {k: v for k, v in outcomes.items() if v != "passed"}
            assert {message["recipient"].partition("@")[2] for message in told["messages"]} == {
                subject.topology.mail.domains[0].name,
                STRANGER_DOMAIN,
            }
            assert client.execute(LEFT).text == before
            for role, machine in bed.booted().machines.items():
                assert machine.failed_units() == "", role
            shutil.rmtree(told["folder"])

    inside(work)
