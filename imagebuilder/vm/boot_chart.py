"""When each unit of a machine began and was ready at its boot, as systemd remembers it. Pure, but for one question."""

from collections.abc import Iterator, Mapping

from imagebuilder.runs.record import BootChart, UnitStart
from imagebuilder.vm.machine import Machine

MANAGER = ("FirmwareTimestampMonotonic", "InitRDTimestampMonotonic", "UserspaceTimestampMonotonic")
FINISHED = "FinishTimestampMonotonic"
BEGAN, READY, ENDED = (
    "InactiveExitTimestampMonotonic",
    "ActiveEnterTimestampMonotonic",
    "InactiveEnterTimestampMonotonic",
)
KINDS = (".service", ".mount", ".swap", ".target")
QUESTION = (
    f"systemctl show -p {','.join((*MANAGER, FINISHED))}; echo; "
    f"systemctl show -p Id,{BEGAN},{READY},{ENDED} -- {' '.join(repr('*' + kind) for kind in KINDS)}"
)
"""What is asked of the machine: the manager's properties, then a paragraph for each unit."""
NOTEWORTHY_S = 0.001
"""A unit that took less is left out, unless it is a target: these are milestones."""


def boot_chart_of(machine: Machine) -> BootChart:
    """Return how *machine* booted; its systemd still knows after the memory was saved and restored."""
    return boot_chart(machine.succeed(QUESTION))


def boot_chart(answer: str) -> BootChart:
    """Return what the *answer* to QUESTION tells."""
    manager, *units = _paragraphs(answer)
    firmware, initrd, userspace = (_seconds(manager, name) for name in MANAGER)
    finished = _seconds(manager, FINISHED)
    starts = [start for unit in units if (start := _start(unit)) and userspace <= start.began_s <= finished]
    starts.sort(key=lambda start: (start.began_s, start.ready_s, start.name))
    return BootChart(
        firmware_s=firmware, initrd_s=initrd, userspace_s=userspace, finished_s=finished, units=tuple(starts)
    )


def _start(unit: Mapping[str, str]) -> UnitStart | None:
    began, ready = _seconds(unit, BEGAN), _seconds(unit, READY)
    if not began:
        return None
    if ready < began:  # a one-shot is never active: it is done when it ended
        ready = max(_seconds(unit, ENDED), began)
    name = unit.get("Id", "")
    if ready - began < NOTEWORTHY_S and not name.endswith(".target"):
        return None
    return UnitStart(name=name, began_s=began, ready_s=ready)


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    for paragraph in text.strip().split("\n\n"):
        yield dict(line.partition("=")[::2] for line in paragraph.splitlines() if "=" in line)


def _seconds(properties: Mapping[str, str], name: str) -> float:
    text = properties.get(name, "")
    return int(text) / 1e6 if text.isdigit() else 0.0
