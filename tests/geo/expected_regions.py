#!/usr/bin/env python3
"""Checks policy `geo` of a running edge against an independent computation.

Promises: picks addresses of many countries from a real geo database, works out from the policy's
description alone which region ought to serve each, asks the edge over HTTP with the address in
X-Forwarded-For, and compares the answer's X-Served-Region, which the backends of the test set.
Refuses to know: how the edge computes it. It shares no code with it, only the two data files.

The policy: regions in the client's country first, then regions on the client's continent, then the
rest; in each group by great-circle distance from the client, ties in configured order. What is not
known of the client is left out; of an unknown client only the configured order remains.

Regions are a JSON list in configured order, as text or as the name of a file:
  [{"id": "eu-west-1", "country": "IE", "coordinates": [53.35, -6.26]}, ...]

Exit status: 0 full agreement, 1 any disagreement or too small a sample, 2 cannot check.
"""

import argparse
import collections
import csv
import heapq
import http.client
import ipaddress
import json
import math
import sys
import urllib.parse
import zlib
from dataclasses import dataclass

EARTH_RADIUS_KM = 6371.0088
# Two distances nearer to each other than this may come out in either order: the cosine of an angle,
# which a router may compare instead, does not resolve less.
RESOLUTION_KM = 0.2
# Never an address of the public internet, so of no place, whatever a database says (RFC 6890).
NOWHERE = [ipaddress.ip_network(text) for text in (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.168.0.0/16", "224.0.0.0/3", "::/128", "::1/128", "fc00::/7", "fe80::/10", "ff00::/8")]
NOWHERE_SAMPLE = ["10.1.2.3", "172.20.1.1", "192.168.1.1", "100.64.9.9", "169.254.3.4", "240.0.0.9",
                  "fd00::1", "fe80::1", "::ffff:192.168.7.7"]


@dataclass(frozen=True)
class Country:
    continent: str
    coordinates: tuple


@dataclass(frozen=True)
class Place:
    country: str | None = None
    continent: str | None = None
    coordinates: tuple | None = None


@dataclass(frozen=True)
class Region:
    id: str
    country: str | None
    continent: str | None
    coordinates: tuple


def read_countries(path):
    with open(path, encoding="utf-8", newline="") as file:
        return {row["code"]: Country(row["continent"],
                                     (float(row["latitude"]), float(row["longitude"])))
                for row in csv.DictReader(file)}


def read_regions(text, countries):
    if not text.lstrip().startswith("["):
        with open(text, encoding="utf-8") as file:
            text = file.read()
    regions = []
    for entry in json.loads(text):
        country = entry.get("country")
        known = countries.get(country)
        latitude, longitude = entry["coordinates"]
        regions.append(Region(entry["id"], country, known.continent if known else None,
                              (float(latitude), float(longitude))))
    return regions


def distance_km(a, b):
    """Haversine formula (R. W. Sinnott, "Virtues of the Haversine", 1984)."""
    phi_a, phi_b = math.radians(a[0]), math.radians(b[0])
    half_phi = (phi_b - phi_a) / 2.0
    half_lambda = math.radians(b[1] - a[1]) / 2.0
    h = math.sin(half_phi) ** 2 + math.cos(phi_a) * math.cos(phi_b) * math.sin(half_lambda) ** 2
    return 2.0 * EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(h)))


def usable_point(latitude, longitude):
    try:
        point = (float(latitude), float(longitude))
    except (TypeError, ValueError):
        return None
    return point if abs(point[0]) <= 90.0 and abs(point[1]) <= 180.0 else None


def inner(record, name, key):
    """MaxMind's nested field, or what stands in its stead."""
    value = record.get(name)
    return value.get(key) if isinstance(value, dict) else value


def country_of(record, countries):
    """The first known country of a record of MaxMind's schema or ip-location-db's flat one."""
    if not isinstance(record, dict):
        return None
    for name in ("country", "country_code", "registered_country"):
        code = inner(record, name, "iso_code")
        if isinstance(code, str) and code.upper() in countries:
            return code.upper()
    return None


def place_of(record, countries):
    """What a database's record says."""
    if not isinstance(record, dict):
        return Place()
    location = record.get("location") or {}
    point = (usable_point(location.get("latitude"), location.get("longitude"))
             or usable_point(record.get("latitude"), record.get("longitude")))
    country = country_of(record, countries)
    if country is None:
        return Place(None, inner(record, "continent", "code"), point)
    known = countries[country]
    return Place(country, known.continent, point or known.coordinates)


def place_of_address(address, database, countries):
    ip = ipaddress.ip_address(address)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if any(ip.version == network.version and ip in network for network in NOWHERE):
        return Place()
    if ip.version > database.metadata().ip_version:
        return Place()
    return place_of(database.get(str(ip)), countries)


def rank(place, regions):
    """The regions in the order of the policy, each with its group and distance."""
    def key(position):
        region = regions[position]
        if place.country is not None and region.country == place.country:
            group = 0
        elif place.continent is not None and region.continent == place.continent:
            group = 1
        else:
            group = 2
        near = distance_km(place.coordinates, region.coordinates) if place.coordinates else 0.0
        return group, near, position

    return [(regions[position], group, near)
            for group, near, position in sorted(map(key, range(len(regions))))]


def acceptable(ranked):
    """The ids that may come first: one, or several that are as good as equally far."""
    _, group, near = ranked[0]
    return [region.id for i, (region, g, d) in enumerate(ranked)
            if i == 0 or (g == group and 0.0 < d - near < RESOLUTION_KM)]


def pick_addresses(database, countries, count):
    """`count` addresses, taken in turn from all countries and from both versions of the protocol.

    A network's turn within its country is given by a checksum, and so is the address within the
    network: the same database always gives the same addresses.
    """
    per_group = max(8, count // 50)
    groups = collections.defaultdict(list)
    for network, record in database:
        country = country_of(record, countries)
        if country is None:
            continue
        order = -zlib.crc32(network.network_address.packed)
        group = groups[(country, network.version)]
        if len(group) == per_group and order < group[0][0]:
            continue
        if any(network.version == other.version and network.overlaps(other) for other in NOWHERE):
            continue
        item = (order, int(network.network_address), network)
        if len(group) < per_group:
            heapq.heappush(group, item)
        else:
            heapq.heapreplace(group, item)
    queues = [sorted(groups[key], reverse=True) for key in sorted(groups)]
    picked = []
    for turn in range(per_group):
        for queue in queues:
            if turn < len(queue) and len(picked) < count:
                picked.append(address_within(queue[turn][2]))
    return picked


def address_within(network):
    offset = zlib.crc32(b"address in " + str(network).encode()) % network.num_addresses
    return str(network.network_address + offset)


class Edge:
    """One kept-alive connection to the edge."""

    def __init__(self, url, host):
        parts = urllib.parse.urlsplit(url)
        self.target = parts.path or "/"
        self.headers = {"Host": host} if host else {}
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=10)

    def served_region(self, address):
        """The region that answered, or a text in parentheses that says what came instead."""
        headers = {**self.headers, "X-Forwarded-For": address}
        for attempt in (1, 2):
            try:
                self.connection.request("GET", self.target, headers=headers)
                answer = self.connection.getresponse()
                answer.read()
                break
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # The edge may close an idle connection at any time; a fresh one it may not.
                self.connection.close()
                if attempt == 2:
                    return "(connection closed)"
        if answer.status != 200:
            return f"(status {answer.status})"
        return answer.getheader("X-Served-Region", "(no X-Served-Region)")


def check(arguments):
    import maxminddb

    countries = read_countries(arguments.countries)
    regions = read_regions(arguments.regions, countries)
    edge = Edge(arguments.edge, arguments.host)
    with maxminddb.open_database(arguments.database) as database:
        picked = pick_addresses(database, countries, arguments.count)
        mapped = [f"::ffff:{address}" for address in picked if "." in address][:25]
        addresses = picked + mapped + NOWHERE_SAMPLE
        cases = [(address, place_of_address(address, database, countries))
                 for address in addresses]
    tally = compare(cases, regions, edge)
    return report(tally, cases, arguments)


def compare(cases, regions, edge):
    tally = collections.Counter()
    shown = 0
    for address, place in cases:
        ranked = rank(place, regions)
        good = acceptable(ranked)
        served = edge.served_region(address)
        tally[("expected", good[0])] += 1
        tally["close"] += len(good) > 1
        if served not in good:
            tally["disagree"] += 1
            shown += 1
            if shown <= 20:
                order = ", ".join(f"{r.id} (group {g}, {d:.1f} km)" for r, g, d in ranked)
                print(f"DISAGREE {address} {place.country or 'unknown'}: served by {served}; "
                      f"expected order {order}")
    return tally


def report(tally, cases, arguments):
    found = {place.country for _, place in cases if place.country}
    v6 = sum(":" in address for address, _ in cases)
    spread = {key[1]: n for key, n in tally.items() if isinstance(key, tuple)}
    print(f"addresses: {len(cases)} ({len(cases) - v6} IPv4, {v6} IPv6 or mapped), "
          f"{sum(place == Place() for _, place in cases)} unknown")
    print(f"countries: {len(found)}")
    print("expected regions: " + ", ".join(f"{id} {n}" for id, n in sorted(spread.items())))
    print(f"too close to call: {tally['close']}")
    print(f"agree: {len(cases) - tally['disagree']}, disagree: {tally['disagree']}")
    faults = []
    if len(cases) < arguments.minimum_addresses:
        faults.append(f"fewer than {arguments.minimum_addresses} addresses")
    if len(found) < arguments.minimum_countries:
        faults.append(f"fewer than {arguments.minimum_countries} countries")
    if len(spread) < 2:
        faults.append("all addresses expect one region: that shows nothing")
    if tally["disagree"]:
        faults.append("the edge and this computation disagree")
    for fault in faults:
        print(f"FAIL: {fault}")
    return 1 if faults else 0


def self_test():
    def same(got, wanted):
        if got != wanted:
            raise AssertionError(f"got {got!r}, wanted {wanted!r}")

    def near(got, wanted, tolerance):
        if abs(got - wanted) > tolerance:
            raise AssertionError(f"got {got}, wanted {wanted} +- {tolerance}")

    # Half and a quarter of the circumference, over the pole, across the date line.
    near(distance_km((0, 0), (0, 180)), math.pi * EARTH_RADIUS_KM, 1e-6)
    near(distance_km((90, 0), (0, 77)), math.pi * EARTH_RADIUS_KM / 2, 1e-6)
    near(distance_km((80, 0), (80, 180)), math.radians(20) * EARTH_RADIUS_KM, 1e-6)
    near(distance_km((0, 179.5), (0, -179.5)), math.radians(1) * EARTH_RADIUS_KM, 1e-6)
    near(distance_km((48.8566, 2.3522), (51.5074, -0.1278)), 343.6, 0.5)  # Paris, London
    near(distance_km((36.12, -86.67), (33.94, -118.40)), 2886.4, 0.5)  # Sinnott's airports
    same(distance_km((12.5, 7.5), (12.5, 7.5)), 0.0)

    countries = {"FR": Country("EU", (46.5, 2.6)), "GB": Country("EU", (54.0, -2.8)),
                 "MA": Country("AF", (31.8, -7.1)), "US": Country("NA", (39.9, -98.8)),
                 "ZA": Country("AF", (-29.0, 25.2))}
    regions = read_regions(json.dumps([
        {"id": "us", "country": "US", "coordinates": [38.95, -77.45]},
        {"id": "za", "country": "ZA", "coordinates": [-33.9, 18.4]},
        {"id": "gb", "country": "GB", "coordinates": [51.5, -0.1]},
        {"id": "fr-north", "country": "FR", "coordinates": [50.6, 3.1]},
        {"id": "fr-south", "country": "FR", "coordinates": [43.3, 5.4]},
        {"id": "sea", "coordinates": [45.0, -30.0]},
    ]), countries)
    ids = lambda record: [r.id for r, *_ in rank(place_of(record, countries), regions)]
    # Country, then continent, then distance; each by distance.
    same(ids({"country_code": "FR"}), ["fr-south", "fr-north", "gb", "sea", "us", "za"])
    same(ids({"country_code": "FR", "latitude": "50.0", "longitude": 3.0}),
         ["fr-north", "fr-south", "gb", "sea", "us", "za"])
    # The continent comes before a nearer region on another.
    same(ids({"country": {"iso_code": "MA"}}),
         ["za", "fr-south", "fr-north", "gb", "sea", "us"])
    same(ids({"registered_country": {"iso_code": "GB"}}),
         ["gb", "fr-north", "fr-south", "sea", "us", "za"])
    # A continent without country or coordinates, a withdrawn code, and nothing at all.
    same(ids({"continent": {"code": "EU"}}), ["gb", "fr-north", "fr-south", "us", "za", "sea"])
    configured = [region.id for region in regions]
    same(ids({"country_code": "AN"}), configured)
    same(ids(None), configured)
    same(place_of({"country_code": "GB", "latitude": 91, "longitude": 0}, countries).coordinates,
         (54.0, -2.8))
    # Equal distances keep the configured order and are told apart; nearly equal ones are not.
    twins = [Region(id, None, None, (0.0, longitude))
             for id, longitude in (("a", 1.0), ("b", 1.0), ("c", 0.999), ("d", 0.99))]
    from_zero = rank(Place(None, None, (0.0, 0.0)), twins[:2])
    same(acceptable(from_zero), ["a"])
    same(acceptable(rank(Place(None, None, (0.0, 0.0)), twins[:3])), ["c", "a", "b"])
    same(acceptable(rank(Place(None, None, (0.0, 0.0)), twins)), ["d"])
    network = ipaddress.ip_network("203.0.113.0/24")
    same(ipaddress.ip_address(address_within(network)) in network, True)
    print("self-test: all as it should be")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--database", help="MaxMind-format database that the edge uses")
    parser.add_argument("--countries", help="geoip/data/countries.csv")
    parser.add_argument("--edge", help="such as http://127.0.0.1:8080")
    parser.add_argument("--regions", help="JSON list, or a file that holds one")
    parser.add_argument("--host", help="Host header, if the route asks for one")
    parser.add_argument("--count", type=int, default=1500, help="addresses to pick (1500)")
    parser.add_argument("--minimum-addresses", type=int, default=1000)
    parser.add_argument("--minimum-countries", type=int, default=60)
    parser.add_argument("--self-test", action="store_true", help="check this program's arithmetic")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    missing = [name for name in ("database", "countries", "edge", "regions")
               if getattr(arguments, name) is None]
    if missing:
        parser.error("needed: " + ", ".join(f"--{name}" for name in missing))
    try:
        return check(arguments)
    except (OSError, http.client.HTTPException, ImportError, ValueError, KeyError) as error:
        print(f"cannot check: {error!r}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
