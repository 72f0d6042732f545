"""`plan`: what would be built, and what of it is there already."""

import json
from argparse import ArgumentParser, Namespace

from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import the_store
from imagebuilder.plan import Plan
from imagebuilder.store import Store


def arguments(parser: ArgumentParser) -> None:
    """It takes none but the common ones."""


def run(args: Namespace) -> int:
    """Print the plan."""
    plan, store = Files(args.topology).plan(), the_store()
    print(json.dumps(facts(plan, store), indent=2) if args.json else text(plan, store))
    return 0


def facts(plan: Plan, store: Store) -> dict[str, object]:
    """Return *plan* for machines."""
    return {
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


def text(plan: Plan, store: Store) -> str:
    """Return *plan* for people."""
    lines = []
    for role, role_plan in plan.roles.items():
        lines.append(f"{role}: {len(role_plan.packages)} packages, {len(role_plan.tree.files)} files of its own")
        lines.append(f"  enabled: {', '.join(role_plan.units)}")
    lines.append("steps:")
    for step in plan.steps:
        lines.append(f"  {'present ' if store.has(step) else 'to build'}  {step}")
    return "\n".join(lines)
