#!/usr/bin/env python3
"""Makes the small databases in this folder. Needs the PyPI package mmdb_writer (0.2.7 was used).

The networks are documentation ranges, or chosen so that no real owner is described.
"""

import time
from pathlib import Path

from mmdb_writer import MMDBWriter
from netaddr import IPSet

HERE = Path(__file__).parent
BUILT = 1_750_000_000
time.time = lambda: BUILT


def named(code, name):
    return {"iso_code": code, "names": {"en": name, "de": name, "fr": name}}


def write(name, entries, **settings):
    writer = MMDBWriter(**settings)
    for network, record in entries:
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(HERE / name))


# MaxMind's city schema: one network per thing that can be missing.
write("city.mmdb", [
    ("203.0.113.0/25", {
        "city": {"names": {"en": "Lyon"}},
        "continent": {"code": "EU", "names": {"en": "Europe"}},
        "country": named("FR", "France"),
        "location": {"accuracy_radius": 20, "latitude": 45.75, "longitude": 4.85,
                     "time_zone": "Europe/Paris"},
        "registered_country": named("US", "United States"),
        "subdivisions": [named("ARA", "Auvergne-Rhone-Alpes")],
    }),
    ("203.0.113.128/25", {"registered_country": named("JP", "Japan")}),
    ("198.51.100.0/25", {"continent": {"code": "AS", "names": {"en": "Asia"}}}),
    ("198.51.100.128/25", {"country": named("ZZ", "Nowhere"), "traits": {"is_anycast": True}}),
    ("192.0.2.0/25", {"country": named("BR", "Brazil"),
                      "location": {"latitude": 123.0, "longitude": 4.0}}),
    ("192.0.2.128/25", {"country": named("CA", "Canada"), "location": {"latitude": 45.0}}),
    ("2001:db8:1::/48", {"country": named("NZ", "New Zealand"),
                         "location": {"latitude": -36.85, "longitude": 174.76}}),
], ip_version=6, ipv4_compatible=True, database_type="Meridian-Test-City",
    description={"en": "test"}, float_type="f64")

# The flat schema of ip-location-db, in its city variant, IPv4 only, 32-bit floats, whole degrees as
# integers: readers must not insist on one number type.
write("flat-city.mmdb", [
    ("203.0.113.0/24", {"country_code": "FR", "city": "Lyon", "latitude": 45.75,
                        "longitude": 4.875, "postcode": "", "state1": ""}),
    ("198.51.100.0/24", {"country_code": "au", "latitude": -25, "longitude": 134}),
    ("192.0.2.0/24", {"country_code": "DE"}),
], ip_version=4, database_type="Meridian-Test flat", description={}, float_type="f32",
    int_type="i32")

# MaxMind-format, but says nothing of places.
write("asn.mmdb", [
    ("203.0.113.0/24", {"autonomous_system_number": 64500,
                        "autonomous_system_organization": "Example"}),
], ip_version=6, ipv4_compatible=True, database_type="Meridian-Test-ASN",
    description={"en": "test"})
