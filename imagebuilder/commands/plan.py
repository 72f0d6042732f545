"""`plan`: what would be built, and what of it is there already."""

import json
from argparse import ArgumentParser, Namespace

from imagebuilder.commands.compared import NOW, of_generation, of_plan
from imagebuilder.commands.diff import summary
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import the_store
from imagebuilder.difference import Difference, difference
from imagebuilder.generations import Generations
from imagebuilder.plan import Plan
from imagebuilder.store.folder import Store


def arguments(parser: ArgumentParser) -> None:
    """It takes none but the common ones."""


def run(args: Namespace) -> int:
    """Print the plan."""
    files, store = Files(args.topology), the_store()
    plan = files.plan()
    changes = against_latest(files, plan, store)
    print(json.dumps(facts(plan, store, changes), indent=2) if args.json else text(plan, store, changes))
    return 0


def against_latest(files: Files, plan: Plan, store: Store) -> Difference | None:
    """Return what building *plan* would change against the latest generation, if there is one."""
    latest = Generations(store, files.topology).latest()
    if latest is None:
        return None
    return difference(of_generation(latest, store), of_plan(NOW, files.topology, plan))


def facts(plan: Plan, store: Store, changes: Difference | None) -> dict[str, object]:
    """Return *plan* for machines."""
    return {
        "against": changes and {"generation": changes.old, "changes": summary(changes)},
        "steps": [{"name": step.name, "key": step.key, "present": store.has(step)} for step in plan.steps],
        "roles": {
            role: {
                "packages": [str(package) for package in role_plan.packages],
                "units": role_plan.units,
                "files": [str(path) for path in sorted(role_plan.tree.files)],
            }
            for role, role_plan in plan.roles.items()
        },
    }


def text(plan: Plan, store: Store, changes: Difference | None) -> str:
    """Return *plan* for people."""
    lines = []
    for role, role_plan in plan.roles.items():
        lines.append(f"{role}: {len(role_plan.packages)} packages, {len(role_plan.tree.files)} files of its own")
        lines.append(f"  enabled: {', '.join(role_plan.units)}")
    lines.append("steps:")
    for step in plan.steps:
        lines.append(f"  {'present ' if store.has(step) else 'to build'}  {step}")
    if changes is not None:
        counts = ", ".join(f"{count} {name}" for name, count in summary(changes).items())
        shown = f"imagebuilder diff {changes.old.removeprefix('generation ')} {NOW}"
        lines.append(f"against {changes.old}: {f'{counts} differ; see {shown}' if counts else 'nothing differs'}")
    return "\n".join(lines)
