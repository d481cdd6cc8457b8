"""What goes wrong, chosen by a seed. Each leaves three regions and two edges that are whole.

The databases are operated as docs/taking-part.md asks: what is proven is what the applications and
the edges do meanwhile.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from topology.edge import Edge
from topology.links import EDGES, REGIONS, Links
from topology.site import Site


@dataclass
class Field:
    """What a nemesis strikes."""

    site: Site
    edges: dict[str, Edge]
    dice: random.Random

    def pause(self, shortest: float, longest: float) -> None:
        time.sleep(self.dice.uniform(shortest, longest))

    def replica(self) -> str:
        return self.dice.choice([region.name for region in self.site.others()])

    def edge(self) -> Edge:
        return self.edges[self.dice.choice(sorted(self.edges))]


def kill_primary(field: Field) -> None:
    """kill -9 of the primary's database and application; a standby is promoted."""
    old = field.site.regions[field.site.primary]
    old.kill()
    field.pause(0, 1)
    field.site.fail_over(may_live=False, wanted=field.replica())
    field.pause(0.5, 1.5)
    field.site.take_back(old.name)
    old.start_application()


def freeze_primary(field: Field) -> None:
    """SIGSTOP of the primary, a standby is promoted, and the old primary wakes up."""
    old = field.site.regions[field.site.primary]
    with field.site.trouble(old.name):
        old.freeze()
        field.pause(0, 1)
        field.site.fail_over(may_live=True, wanted=field.replica())
        field.pause(0, 1)
        old.thaw()
        field.pause(0.5, 1)
    field.site.take_back(old.name)


def isolate_primary(field: Field) -> None:
    """The primary's database is cut off from the others; edges still reach its application."""
    site, old = field.site, field.site.primary
    others = [name for name in REGIONS if name != old]
    site.links.cut(*((name, old) for name in others), *((old, name) for name in others))
    field.pause(0, 1.5)
    site.fail_over(may_live=True, wanted=field.replica())
    field.pause(0.5, 1.5)
    site.links.heal()
    site.take_back(old)


def cut_edge_off(field: Field) -> None:
    """One edge reaches the old primary alone while another one is promoted."""
    site, old, edge = field.site, field.site.primary, field.dice.choice(EDGES)
    others = [name for name in REGIONS if name != old]
    with site.trouble(*others):
        site.links.cut(*((edge, name) for name in others))
        field.pause(0, 1)
        site.fail_over(may_live=True, wanted=field.replica())
        field.pause(1, 3)
        site.links.heal()
        field.pause(0.5, 1)
    site.take_back(old)


def cut_edge_from_primary(field: Field) -> None:
    """One edge does not reach the primary, which is well."""
    site, edge = field.site, field.dice.choice(EDGES)
    with site.trouble(site.primary):
        site.links.cut((edge, site.primary))
        field.pause(1, 3)
        site.links.heal()
        field.pause(0.5, 0.5)


def rival(field: Field) -> None:
    """The primary dies and both standbys are promoted: two of one epoch, of which one stays."""
    site, old = field.site, field.site.regions[field.site.primary]
    with site.operating:
        old.kill()
        standbys = site.others()
        for region in standbys:
            region.database.resume_replay()
            region.database.follow("")
        for region in standbys:
            region.database.until_detached()
        winner = max(standbys, key=lambda region: region.database.received())
        for region in standbys:
            region.database.promote()
        field.pause(0.5, 2)
        site.primary = winner.name
        site.promotions.append((time.monotonic_ns(), winner.name))
        loser = next(region for region in standbys if region is not winner)
        site.take_back(loser.name, rival=True)
    site.take_back(old.name)
    old.start_application()


def kill_application(field: Field) -> None:
    """kill -9 of a region's application, not of its database."""
    region = field.site.regions[field.dice.choice(REGIONS)]
    region.kill_application()
    field.pause(0.5, 2)
    region.start_application()


def freeze_replica(field: Field) -> None:
    """SIGSTOP of a replica."""
    region = field.site.regions[field.replica()]
    with field.site.trouble(region.name):
        region.freeze()
        field.pause(1, 4)
        region.thaw()
        field.pause(0.5, 0.5)


def pause_replay(field: Field) -> None:
    """pg_wal_replay_pause in one replica."""
    region = field.site.regions[field.replica()]
    region.database.pause_replay()
    field.pause(1, 4)
    region.database.resume_replay()


def pause_all_replay(field: Field) -> None:
    """pg_wal_replay_pause in both replicas."""
    regions = field.site.others()
    for region in regions:
        region.database.pause_replay()
    field.pause(1, 4)
    for region in regions:
        region.database.resume_replay()


def switch_over(field: Field) -> None:
    """The primary ends in good order, another one is promoted, the old one follows."""
    field.site.switch_over(field.replica())


def reload(field: Field) -> None:
    """Another configuration for both edges, three times."""
    for _ in range(3):
        for edge in field.edges.values():
            edge.reload()
        field.pause(0.1, 0.5)


def kill_edge(field: Field) -> None:
    """kill -9 of an edge, which is started again."""
    edge = field.edge()
    edge.kill()
    field.pause(0, 0.5)
    edge.start()


def upgrade_edge(field: Field) -> None:
    """A new process takes over an edge's sockets."""
    field.edge().upgrade()


def kill_primary_and_edge(field: Field) -> None:
    """A promotion while an edge is down: it comes back with what it knew before."""
    edge, old = field.edge(), field.site.regions[field.site.primary]
    edge.kill()
    old.kill()
    field.site.fail_over(may_live=False, wanted=field.replica())
    edge.start()
    field.pause(0.5, 1)
    field.site.take_back(old.name)
    old.start_application()


def switch_over_and_upgrade(field: Field) -> None:
    """An edge is upgraded while the primary moves."""
    edge = field.edge()
    field.site.switch_over(field.replica())
    edge.upgrade()


NEMESES: list[Callable[[Field], None]] = [
    kill_primary,
    freeze_primary,
    isolate_primary,
    cut_edge_off,
    cut_edge_from_primary,
    rival,
    kill_application,
    freeze_replica,
    pause_replay,
    pause_all_replay,
    switch_over,
    reload,
    kill_edge,
    upgrade_edge,
    kill_primary_and_edge,
    switch_over_and_upgrade,
]
CUTTING = {isolate_primary, cut_edge_off, cut_edge_from_primary}
SHORT = [
    kill_primary,
    cut_edge_off,
    pause_all_replay,
    switch_over,
    kill_edge,
    reload,
    isolate_primary,
]


def possible(wanted: list[Callable[[Field], None]]) -> list[Callable[[Field], None]]:
    """Those that can be done on this machine."""
    return [each for each in wanted if not (Links.lacking() and each in CUTTING)]
