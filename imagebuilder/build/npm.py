"""The npm packages of a role: fetched as their lock file says, installed offline, no script of theirs being run."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.plan import NPM_PROJECT, Plan
from imagebuilder.run import ProcessError, run
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools

OPTIONS = ("--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")


def npm_cache(store: Store, tools: Tools, plan: Plan) -> Path:
    """Return npm's cache with every package of the lock file, fetched from this machine's registry unless present.

    npm itself checks each package against the lock file. Raises ImagebuilderError when one can't be had.
    """

    def make(folder: Path) -> None:
        with store.workspace() as work:
            over, setenv = _machine_settings()
            options = ["--cache", str(folder / "cache")]
            argv = _install(work, options)
            try:
                run(
                    tools.argv(argv, write=[work, folder], chdir=work, network=True, over=over, setenv=setenv),
                    timeout_s=900,
                )
            except ProcessError as error:
                raise ImagebuilderError(
                    f"the npm packages of the proxy could not be fetched: {error.output.strip()[-300:]}",
                    hint="check the network and this machine's npm registry setting (~/.npmrc, npm_config_registry)",
                ) from error
            shutil.rmtree(folder / "cache/_logs", ignore_errors=True)

    return store.output(plan.npm_cache, make) / "cache"


def node_modules(store: Store, tools: Tools, plan: Plan, cache: Path) -> Path:
    """Return the folder node_modules that the lock file describes, made from *cache* without a network."""

    def make(folder: Path) -> None:
        with store.workspace() as work:
            # npm writes to its cache even offline.
            shutil.copytree(cache, work / "cache")
            argv = _install(work, ["--offline", "--cache", str(work / "cache")])
            run(tools.argv(argv, write=[work], chdir=work), timeout_s=900)
            (work / "node_modules/.package-lock.json").unlink()
            (work / "node_modules").rename(folder / "node_modules")

    return store.output(plan.node_modules, make) / "node_modules"


def _install(work: Path, options: Sequence[str]) -> list[str]:
    """Copy the project to *work* and return the command that installs it there."""
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(NPM_PROJECT / name, work / name)
    return ["npm", "ci", *OPTIONS, *options]


def _machine_settings() -> tuple[list[tuple[Path, Path]], list[tuple[str, str]]]:
    """Return this machine's npm settings, which name its registry: files to show inside, and variables."""
    setenv = {name.lower(): value for name, value in os.environ.items() if name.lower().startswith("npm_config_")}
    candidates = {
        "npm_config_userconfig": [Path(setenv.get("npm_config_userconfig", "~/.npmrc")).expanduser()],
        "npm_config_globalconfig": [Path(prefix) / "etc/npmrc" for prefix in ("/", "/usr", "/usr/local")],
    }
    over = []
    for variable, paths in candidates.items():
        for path in paths:
            if path.is_file():
                inside = Path("/tmp") / variable
                over.append((path, inside))
                setenv[variable] = str(inside)
                break
    return over, sorted(setenv.items())
