"""The table of contents of a build: from a plan to tools and images, whatever is missing being fetched and made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from imagebuilder.build.base import build_base, build_initrd, initrd_in
from imagebuilder.build.disk import Parts
from imagebuilder.build.frame import build_frame
from imagebuilder.build.image import Image, build_difference, build_image, retire_images
from imagebuilder.build.npm import node_modules, npm_cache
from imagebuilder.build.toolchain import build_tools
from imagebuilder.fetch import Sources, fetch
from imagebuilder.plan import Derivation, Plan, RolePlan
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

    def at_hand(step: Derivation) -> bool:
        return store.has(step) or (step not in plan.images and take(store, step, substituters, sources.trusted_keys))

    rest = unmade(plan, at_hand) if missing else ()
    if any(step not in plan.images for step in rest):
        fetch(store, plan.lock.packages, sources, states=plan.lock.states)
    tools = replace(build_tools(store, plan), clock=clock)

    def image(role_plan: RolePlan) -> Image:
        if not any(step in rest for step in (role_plan.base, role_plan.frame, role_plan.difference)):
            return build_image(store, role_plan)
        base = build_base(store, tools, plan.lock, role_plan, node_modules=modules)
        if not store.has(role_plan.frame):
            build_initrd(store, tools, plan.lock, role_plan)
        parts = Parts(role_plan, plan.lock, base, initrd_in(store, role_plan))
        build_difference(store, tools, parts, build_frame(store, tools, parts))
        return build_image(store, role_plan)

    if plan.node_modules in rest:
        node_modules(store, tools, plan, npm_cache(store, tools, plan))
    modules = store.path(plan.node_modules) / "node_modules"
    with Workers(max_workers=len(plan.roles)) as pool:
        images = dict(zip(plan.roles, pool.map(image, plan.roles.values()), strict=True))
    if rest:
        retire_images(store)
    return Built(tools, images, tuple(step.name for step in missing))
