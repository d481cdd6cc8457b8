"""The proxies that are compared. `named` turns a --proxy argument into one of them."""

from proxies.base import Command, Proxy, Running, Setup, Site
from proxies.caddy import Caddy
from proxies.floor import Floor
from proxies.haproxy import HAProxy
from proxies.meridian import Meridian
from proxies.nginx import Nginx

KINDS = {
    "nginx": Nginx,
    "haproxy": HAProxy,
    "caddy": Caddy,
    "meridian": Meridian,
    "floor": Floor,
}

__all__ = ["KINDS", "Command", "Proxy", "Running", "Setup", "Site", "named"]


def named(argument: str) -> Proxy:
    """KIND, KIND=BINARY or KIND-ANYTHING=BINARY: two builds may be compared under two names."""
    name, _, binary = argument.partition("=")
    kind = name.split("-")[0]
    if kind not in KINDS:
        raise SystemExit(f"unknown proxy {name!r}; one of: {', '.join(KINDS)} (-ANYTHING=BINARY)")
    return KINDS[kind](name, binary or kind)
