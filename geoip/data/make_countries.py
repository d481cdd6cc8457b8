#!/usr/bin/env python3
"""Writes countries.csv: every ISO 3166-1 country and XK with its continent and centroid.

Usage: make_countries.py DIRECTORY > countries.csv
DIRECTORY holds the unpacked npm packages i18n-iso-countries (the set of codes), countries-list
(continents and names) and world-atlas (Natural Earth's borders), each in a folder of its name.
README.md in this folder says which versions were used and what they allow.

A centroid is that of the country's largest piece of land and of all its pieces whose own centroid
is at most 2,000 km from it, on the sphere: so France does not lean towards Guiana, nor the United
States towards Alaska.
"""

import json
import math
import sys
from pathlib import Path

# What Natural Earth draws apart from the country that ISO 3166-1 counts it to.
PARTS = {
    "Kosovo": "XK", "Somaliland": "SO", "N. Cyprus": "CY", "Cyprus U.N. Buffer Zone": "CY",
    "Dhekelia": "CY", "Akrotiri": "CY", "Baikonur": "KZ", "USNB Guantanamo Bay": "CU",
}
# What Natural Earth draws as part of another country or has no area for, and scattered islands
# whose people live on one of them: commonly published coordinates, in degrees north and east.
PLACED = {
    "BQ": (12.18, -68.25), "BV": (-54.42, 3.36), "CC": (-12.17, 96.84), "CX": (-10.49, 105.63),
    "GF": (3.93, -53.13), "GP": (16.25, -61.58), "MQ": (14.64, -61.02), "RE": (-21.12, 55.54),
    "KI": (1.42, 173.0), "SC": (-4.68, 55.47), "SH": (-15.96, -5.71), "SJ": (78.57, 17.5),
    "TK": (-9.2, -171.85), "VA": (41.9, 12.45), "YT": (-12.83, 45.15),
}
# Where the usual databases (GeoNames, MaxMind) place a country on another continent than
# countries-list.
CONTINENT_OVERRIDES = {"RU": "EU"}
NEAR_KM = 2000.0
EARTH_RADIUS_KM = 6371.0088


def decode_arcs(topology):
    (sx, sy), (tx, ty) = topology["transform"]["scale"], topology["transform"]["translate"]
    arcs = []
    for arc in topology["arcs"]:
        x = y = 0
        points = []
        for dx, dy in arc:
            x, y = x + dx, y + dy
            points.append(unit(y * sy + ty, x * sx + tx))
        arcs.append(points)
    return arcs


def unit(latitude, longitude):
    phi, lam = math.radians(latitude), math.radians(longitude)
    return (math.cos(phi) * math.cos(lam), math.cos(phi) * math.sin(lam), math.sin(phi))


def dot(a, b):
    return sum(p * q for p, q in zip(a, b))


def cross(a, b):
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def ring_moment(arcs, ring):
    """The integral of the position over the area inside, as half the sum of the edges' angles times
    their normals (Stokes); its length is nearly the area, its direction the centroid's or the
    antipode's."""
    points = []
    for index in ring:
        points += arcs[index] if index >= 0 else reversed(arcs[~index])
    moment = [0.0, 0.0, 0.0]
    for a, b in zip(points, points[1:] + points[:1]):
        normal = cross(a, b)
        length = math.sqrt(dot(normal, normal))
        if length > 0.0:
            angle = math.atan2(length, dot(a, b))
            moment = [m + 0.5 * angle * n / length for m, n in zip(moment, normal)]
    middle = tuple(sum(axis) for axis in zip(*points))
    return moment, dot(moment, middle)


def polygon_moment(arcs, rings):
    outer, side = ring_moment(arcs, rings[0])
    holes = [ring_moment(arcs, ring)[0] for ring in rings[1:]]
    sign = 1.0 if side >= 0.0 else -1.0
    return tuple(sign * sum(axis) for axis in zip(outer, *holes))


def centroid(moments):
    direction = lambda m: tuple(c / math.sqrt(dot(m, m)) for c in m)
    moments = [m for m in moments if dot(m, m) > 0.0]
    largest = direction(max(moments, key=lambda m: dot(m, m)))
    near = math.cos(NEAR_KM / EARTH_RADIUS_KM)
    total = direction([sum(axis) for axis in zip(
        *(m for m in moments if dot(direction(m), largest) >= near))])
    latitude = math.degrees(math.asin(total[2]))
    return latitude, math.degrees(math.atan2(total[1], total[0]))


def borders(topology, numeric):
    """All polygons' moments by country code."""
    arcs = decode_arcs(topology)
    found = {}
    for shape in topology["objects"]["countries"]["geometries"]:
        code = numeric.get(shape.get("id")) or PARTS.get(shape["properties"]["name"])
        if code is None:
            continue
        polygons = [shape["arcs"]] if shape["type"] == "Polygon" else shape.get("arcs", [])
        found.setdefault(code, []).extend(polygon_moment(arcs, rings) for rings in polygons)
    return found


def main():
    root = Path(sys.argv[1])
    read = lambda path: json.loads((root / path).read_text(encoding="utf-8"))
    codes = read("i18n-iso-countries/codes.json")
    facts = read("countries-list/countries.min.json")
    numeric = {number: code for code, _, number, *_ in codes}
    moments = borders(read("world-atlas/countries-10m.json"), numeric)
    print("code,continent,latitude,longitude,name")
    for code in sorted({code for code, *_ in codes} | {"XK"}):
        continent = CONTINENT_OVERRIDES.get(code, facts[code]["continent"])
        latitude, longitude = PLACED[code] if code in PLACED else centroid(moments[code])
        name = facts[code]["name"].replace(",", "")
        print(f"{code},{continent},{latitude:.2f},{longitude:.2f},{name}")


if __name__ == "__main__":
    main()
