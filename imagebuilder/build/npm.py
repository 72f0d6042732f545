"""The npm packages of a role: fetched as their lock file says, installed offline, no script of theirs being run."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.resources import PROFILES
from imagebuilder.run import ProcessError, run
from imagebuilder.store import Store, sha256_of
from imagebuilder.tools import Tools

PROJECT = PROFILES / "proxy/npm"
"""Folder of package.json and package-lock.json, which has the SHA-512 of every package."""

OPTIONS = ("--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")


def npm_cache(store: Store, tools: Tools) -> Path:
    """Return npm's cache with every package of the lock file, fetched from this machine's registry unless present.

    npm itself checks each package against the lock file. Raises ImagebuilderError when one can't be had.
    """

    def make(folder: Path) -> None:
        with store.workspace() as work:
            settings = [path for path in _settings_files() if path.is_file()]
            setenv = [(name, value) for name, value in os.environ.items() if name.lower().startswith("npm_config_")]
            if settings:
                setenv.append(("npm_config_userconfig", str(settings[0])))
            argv = _install(
                tools, work, ["--cache", str(folder / "cache")], write=[folder], settings=settings, env=setenv
            )
            try:
                run(argv, timeout_s=900)
            except ProcessError as error:
                raise ImagebuilderError(
                    f"the npm packages of the proxy could not be fetched: {error.output.strip()[-300:]}",
                    hint="check the network and this machine's npm registry setting (~/.npmrc, npm_config_registry)",
                ) from error
            shutil.rmtree(folder / "cache/_logs", ignore_errors=True)

    return store.output("npm-cache", _inputs(tools), make) / "cache"


def node_modules(store: Store, tools: Tools, cache: Path) -> Path:
    """Return the folder node_modules that the lock file describes, made from *cache* without a network."""

    def make(folder: Path) -> None:
        with store.workspace() as work:
            # npm writes to its cache even offline.
            shutil.copytree(cache, work / "cache")
            run(_install(tools, work, ["--offline", "--cache", str(work / "cache")]), timeout_s=900)
            (work / "node_modules/.package-lock.json").unlink()
            (work / "node_modules").rename(folder / "node_modules")

    return store.output("node-modules", _inputs(tools), make) / "node_modules"


def _settings_files() -> Sequence[Path]:
    named = [value for name, value in os.environ.items() if name.lower() == "npm_config_userconfig"]
    return [*map(Path, named), Path.home() / ".npmrc", Path("/etc/npmrc")]


def _install(
    tools: Tools,
    work: Path,
    options: Sequence[str],
    *,
    write: Sequence[Path] = (),
    settings: Sequence[Path] = (),
    env: Sequence[tuple[str, str]] = (),
) -> list[str]:
    """Return the argv of ``npm ci`` for the project, copied to *work*; the network is there only with *env*."""
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(PROJECT / name, work / name)
    return tools.argv(
        ["npm", "ci", *OPTIONS, *options],
        read=settings,
        write=[work, *write],
        chdir=work,
        network="--offline" not in options,
        setenv=env,
    )


def _inputs(tools: Tools) -> dict[str, object]:
    return {
        "lock": sha256_of(PROJECT / "package-lock.json"),
        "project": sha256_of(PROJECT / "package.json"),
        "tools": tools.tree.name,
    }
