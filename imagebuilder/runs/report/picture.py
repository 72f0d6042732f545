"""A topology in the bed's world as a drawing: boxes, cables and labels with their places. Pure."""

from dataclasses import dataclass

from imagebuilder.runs.record import Scene

LINE, PAD, TITLE = 17, 12, 20
"""Height of a line of small text, padding of a box, height of its title; all in units of the drawing."""


@dataclass(frozen=True)
class Label:
    """A line of text."""

    x: float
    y: float
    text: str
    kind: str = "small"
    """title, small or edge: how it is set."""
    anchor: str = "start"


@dataclass(frozen=True)
class Box:
    """A host, or the frame around a network."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    """outside, proxy, client or frame."""


@dataclass(frozen=True)
class Cable:
    """A connection, from the one who opens it."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str = "open"
    """open or tunnel."""


@dataclass(frozen=True)
class Picture:
    """A whole drawing."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    cables: tuple[Cable, ...]
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class Host:
    """What is told of a host."""

    kind: str
    title: str
    lines: tuple[str, ...]

    @property
    def height(self) -> float:
        """Height of its box."""
        return PAD * 2 + TITLE + LINE * len(self.lines) - 4

    def labels(self, x: float, y: float, width: float) -> tuple[Label, ...]:
        """Return its text in a box at that place."""
        fits = int((width - 2 * PAD) / 7.3)
        title = Label(x + PAD, y + PAD + 13, shortened(self.title, int((width - 2 * PAD) / 8.2)), "title")
        lines = (
            Label(x + PAD, y + PAD + TITLE + 12 + LINE * row, shortened(line, fits))
            for row, line in enumerate(self.lines)
        )
        return (title, *lines)


def shortened(text: str, fits: int) -> str:
    """Return *text*, its middle left out if it has more than *fits* characters."""
    if len(text) <= fits:
        return text
    head = (fits - 1) // 2
    return f"{text[:head]}…{text[len(text) - (fits - 1 - head) :]}"


def hosts(scene: Scene) -> tuple[Host, Host, Host, Host]:
    """Return the stranger, the user, the proxy and the client of *scene*."""
    domains = ", ".join(scene.domains)
    boxes = "1 mailbox" if scene.mailboxes == 1 else f"{scene.mailboxes} mailboxes"
    return (
        Host("outside", "stranger", (*scene.stranger, "mail server")),
        Host("outside", "user abroad", (*scene.user, "mail programs")),
        Host("proxy", scene.proxy, ("proxy", *scene.proxy_addresses, f"in the tunnel {scene.tunnel_proxy}")),
        Host(
            "client",
            scene.client,
            (
                "client",
                *([f"at home {scene.client_address}"] if scene.client_address else []),
                f"in the tunnel {scene.tunnel_client}",
                f"{boxes}, {domains}",
            ),
        ),
    )


def wide(scene: Scene) -> Picture:
    """Return the drawing from left to right, for screens."""
    stranger, user, proxy, client = hosts(scene)
    side, middle = 236.0, 268.0
    height = max(stranger.height + user.height + 28, client.height + 62, proxy.height + 40)
    place = {
        "stranger": (0.0, 0.0),
        "user": (0.0, height - user.height),
        "proxy": (400.0, (height - proxy.height) / 2),
        "client": (866.0, (height - client.height) / 2 + 14),
    }
    boxes = [
        Box(840, 0, 320, height, "frame"),
        Box(*place["stranger"], side, stranger.height, "outside"),
        Box(*place["user"], side, user.height, "outside"),
        Box(*place["proxy"], middle, proxy.height, "proxy"),
        Box(*place["client"], middle, client.height, "client"),
    ]
    labels = [Label(860, 24, f"home, seen from outside as {scene.home}" if scene.home else "home", "edge")]
    for name, host in (("stranger", stranger), ("user", user), ("proxy", proxy), ("client", client)):
        labels += host.labels(*place[name], middle if name in ("proxy", "client") else side)
    centre = height / 2
    from_stranger, from_user = stranger.height / 2, height - user.height / 2
    cables = [
        Cable(side, from_stranger, 396, centre - 22),
        Cable(side, from_user, 396, centre + 22),
        Cable(862, centre + 14, 672, centre + 14, "tunnel"),
    ]
    labels += [
        Label(322, (from_stranger + centre - 22) / 2 - 12, "25", "edge", "middle"),
        Label(322, (from_user + centre + 22) / 2 + 24, "587, 993", "edge", "middle"),
        Label(754, centre - 2, "WireGuard", "edge", "middle"),
        Label(754, centre + 34, f"udp {scene.tunnel_port}", "edge", "middle"),
    ]
    return Picture(1160, height, tuple(boxes), tuple(cables), tuple(labels))


def narrow(scene: Scene) -> Picture:
    """Return the drawing from top to bottom, for telephones."""
    stranger, user, proxy, client = hosts(scene)
    width, half, gap = 360.0, 174.0, 56.0
    top = max(stranger.height, user.height)
    proxy_y = top + gap
    frame_y = proxy_y + proxy.height + gap
    boxes = [
        Box(0, 0, half, top, "outside"),
        Box(width - half, 0, half, top, "outside"),
        Box(0, proxy_y, width, proxy.height, "proxy"),
        Box(0, frame_y, width, client.height + 54, "frame"),
        Box(14, frame_y + 38, width - 28, client.height, "client"),
    ]
    labels = [
        *stranger.labels(0, 0, half),
        *user.labels(width - half, 0, half),
        *proxy.labels(0, proxy_y, width),
        *client.labels(14, frame_y + 38, width - 28),
        Label(16, frame_y + 24, f"home, outside {scene.home}" if scene.home else "home", "edge"),
        Label(half / 2 + 12, top + 33, "25", "edge"),
        Label(width - half / 2 + 12, top + 33, "587, 993", "edge"),
        Label(width - 62, frame_y - 22, f"WireGuard, udp {scene.tunnel_port}", "edge", "end"),
    ]
    cables = [
        Cable(half / 2, top, half / 2, proxy_y - 4),
        Cable(width - half / 2, top, width - half / 2, proxy_y - 4),
        Cable(width - 46, frame_y + 36, width - 46, proxy_y + proxy.height + 6, "tunnel"),
    ]
    return Picture(width, frame_y + client.height + 54, tuple(boxes), tuple(cables), tuple(labels))
