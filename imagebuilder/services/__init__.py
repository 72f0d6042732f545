"""One module per service: which values its overlay may refer to. Pure."""

from imagebuilder.services.base import Service, Site, Values

__all__ = ["Service", "Site", "Values"]
