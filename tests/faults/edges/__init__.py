"""The proxies under test. `named` turns a --proxy argument into one of them."""

from edges.base import DidNotStart, Edge, Running, Settings, Site
from edges.haproxy import HAProxy
from edges.meridian import Meridian
from edges.nginx import Nginx

KINDS = {"meridian": Meridian, "nginx": Nginx, "haproxy": HAProxy}

__all__ = ["KINDS", "DidNotStart", "Edge", "Running", "Settings", "Site", "named"]


def named(argument: str) -> Edge:
    """KIND or KIND=BINARY. ValueError if there is no such kind or binary."""
    kind, _, binary = argument.partition("=")
    if kind not in KINDS:
        raise ValueError(f"unknown proxy {kind!r}; one of: {', '.join(KINDS)}")
    edge = KINDS[kind](kind, binary or kind)
    if not edge.is_installed():
        raise ValueError(f"{kind}: there is no program {edge.binary!r}")
    return edge
