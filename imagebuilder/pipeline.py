"""The table of contents of a build: from a plan to tools and images, whatever is missing being fetched and made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from imagebuilder.build.base import Base, build_base, build_initrd, initrd_in
from imagebuilder.build.disk import Parts
from imagebuilder.build.frame import build_frame
from imagebuilder.build.image import KEPT, Image, build_difference, build_image, retire_images
from imagebuilder.build.npm import node_modules, npm_cache
from imagebuilder.build.toolchain import build_tools
from imagebuilder.fetch import Sources, fetch
from imagebuilder.plan import Derivation, Plan, RolePlan
from imagebuilder.run import Workers
from imagebuilder.store.folder import Store, Used
from imagebuilder.store.sharing import take, unmade
from imagebuilder.tools import Clock, Tools
from imagebuilder.topology import Role

WORKERS = 3
"""Steps at a time: one more than processors of a small machine, as none keeps its own busy all the time."""


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

    def at_hand(step: Derivation) -> bool:
        return store.has(step) or (step not in plan.images and take(store, step, substituters, sources.trusted_keys))

    rest = unmade(plan, at_hand) if missing else ()
    if any(step not in plan.images for step in rest):
        fetch(store, plan.lock.packages, sources, states=plan.lock.states)
    tools = replace(build_tools(store, plan), clock=clock)

    def modules() -> Path:
        if plan.node_modules in rest:
            node_modules(store, tools, plan, npm_cache(store, tools, plan))
        return store.path(plan.node_modules) / "node_modules"

    def base(role_plan: RolePlan) -> Base:
        if role_plan.base not in rest:
            return Base(store.path(role_plan.base))
        wanted = bool(role_plan.base.inputs["node_modules"])
        return build_base(store, tools, plan.lock, role_plan, node_modules=installed.result() if wanted else None)

    def initrd(role_plan: RolePlan) -> Path:
        if role_plan.initrd not in rest:
            return initrd_in(store, role_plan)
        return build_initrd(store, tools, plan.lock, role_plan)

    def image(role_plan: RolePlan) -> Image:
        if any(step in rest for step in (role_plan.base, role_plan.frame, role_plan.difference)):
            parts = Parts(role_plan, plan.lock, bases[role_plan.role].result(), initrds[role_plan.role].result())
            build_difference(store, tools, parts, build_frame(store, tools, parts))
        return build_image(store, role_plan)

    with Workers(max_workers=WORKERS) as pool:
        # Nothing waits for what is still in the queue.
        installed = pool.submit(modules)
        clients = pool.submit(base, plan.roles[Role.CLIENT])  # takes longest
        initrds = {role: pool.submit(initrd, role_plan) for role, role_plan in plan.roles.items()}
        bases = {Role.CLIENT: clients, Role.PROXY: pool.submit(base, plan.roles[Role.PROXY])}
        retired = pool.submit(retire_images, store, keep=KEPT - 1) if rest else None
        images = dict(zip(plan.roles, pool.map(image, plan.roles.values()), strict=True))
        if retired:
            retired.result()
    return Built(tools, images, tuple(step.name for step in missing))
