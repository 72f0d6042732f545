"""The command line: reads the arguments, runs a command, and prints what went wrong."""

import argparse
import gc
import signal
import sys
from collections.abc import Container, Sequence
from importlib import import_module
from pathlib import Path

from imagebuilder import __version__, run
from imagebuilder.errors import ExitStatus, ImagebuilderError, refused

COMMANDS = {
    "init": "write a commented topology, and the keys it needs",
    "secrets": "list, rotate, export and import the private keys",
    "check": "report every problem of the topology at once",
    "lock": "resolve every input to a hash",
    "plan": "show what would be built",
    "render": "write the files of both images, to look at",
    "build": "build both images",
    "generations": "list what was built, and what became of it",
    "diff": "show what differs between two builds",
    "sbom": "list what an image consists of, and its known vulnerabilities",
    "boot": "boot both images on a virtual network, for a command or a prompt",
    "test": "boot both images and prove that mail is delivered",
    "flash": "write a tested image to a disk of this machine",
    "upload": "write a tested image to a disk of a rescue system, or to where a provider imports it",
    "status": "look whether a host runs what was shipped, and does its work",
    "dns": "print the DNS records to publish, or check them",
    "report": "list past runs of the tests, or open the page of one",
    "store": "check what is kept, and share it",
    "gc": "remove what no generation needs",
    "verify": "build both images again under other circumstances, and compare every byte",
    "schema": "describe every key of the topology",
}


def parser(named: Container[str]) -> argparse.ArgumentParser:
    """Return the parser of all commands, with the arguments of those in *named*: each costs an import of its module."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-t", "--topology", type=Path, default=Path("topology.toml"), metavar="PATH")
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    common.add_argument("-v", "--verbose", action="store_true", help="show every command that is run")
    top = argparse.ArgumentParser(
        prog="imagebuilder", description="One topology file in, two tested mail server images out."
    )
    top.add_argument("--version", action="version", version=f"imagebuilder {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, parents=[common])
        if name in named:
            import_module(f"imagebuilder.commands.{name}").arguments(command)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: the process's) and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser(argv).parse_args(argv)
    run.verbose = args.verbose
    for number in (signal.SIGTERM, signal.SIGHUP):
        # As Ctrl-C: what runs is ended, what is half made is removed.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    run.forbid_core_dumps()
    # Half a second of imports and models leaves nothing to collect, and looking for it takes a tenth of that.
    gc.set_threshold(50_000)
    try:
        return int(import_module(f"imagebuilder.commands.{args.command}").run(args))
    except ImagebuilderError as error:
        return told(error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return ExitStatus.STOPPED
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        sys.stderr.close()
        return ExitStatus.FAILED
    except OSError as error:
        refusal = refused(error)
        if refusal is None:
            raise
        return told(refusal)


def told(error: ImagebuilderError) -> ExitStatus:
    """Print *error*, and return the status to end with."""
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    return error.status
