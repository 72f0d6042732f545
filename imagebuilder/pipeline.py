"""The table of contents of a build: from a plan to tools and images, whatever is missing being fetched and made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from imagebuilder.build.base import build_base, build_initrd
from imagebuilder.build.image import Image, Parts, build_image, finished_image
from imagebuilder.build.npm import node_modules, npm_cache
from imagebuilder.build.toolchain import build_tools
from imagebuilder.fetch import Sources, fetch
from imagebuilder.plan import Plan, RolePlan
from imagebuilder.run import Workers
from imagebuilder.store.folder import Store, Used
from imagebuilder.store.sharing import take, unmade
from imagebuilder.tools import Clock, Tools
from imagebuilder.topology import Role


@dataclass(frozen=True)
class Built:
    """What a build leaves in the store."""

    tools: Tools
    images: Mapping[Role, Image]
    made: tuple[str, ...]
    """Names of the steps that were not there before."""


def build(store: Store, plan: Plan, sources: Sources, *, clock: Clock | None = None) -> Built:
    """Build the images of *plan*, and do nothing when they are there.

    What a substituter has, signed by a trusted key, is not made; packages are fetched only when something is.
    With *clock* the programs believe in another time, which must not change a byte.
    """
    store.use(Used(frozenset(map(str, plan.steps)), frozenset(package.sha256 for package in plan.lock.packages)))
    missing, substituters = unmade(plan, store.has), list(sources.substituters if sources.outputs else ())
    rest = unmade(plan, lambda step: take(store, step, substituters, sources.trusted_keys)) if missing else ()
    if rest:
        fetch(store, plan.lock.packages, sources, states=plan.lock.states)
    tools = replace(build_tools(store, plan), clock=clock)

    def image(role_plan: RolePlan) -> Image:
        if store.has(role_plan.image):
            return finished_image(store, role_plan)
        initrd = build_initrd(store, tools, plan.lock, role_plan)
        base = build_base(store, tools, plan.lock, role_plan, node_modules=modules)
        return build_image(store, tools, Parts(role_plan, plan.lock, base, initrd))

    if plan.node_modules in rest:
        node_modules(store, tools, plan, npm_cache(store, tools, plan))
    modules = store.path(plan.node_modules) / "node_modules"
    with Workers(max_workers=len(plan.roles)) as pool:
        images = dict(zip(plan.roles, pool.map(image, plan.roles.values()), strict=True))
    return Built(tools, images, tuple(step.name for step in missing))
