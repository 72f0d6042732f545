"""One module per service: which values its overlay may refer to. Pure."""

from imagebuilder.services.base import Service, Site, Values

SERVICES: tuple[Service, ...] = ()

__all__ = ["SERVICES", "Service", "Site", "Values"]
