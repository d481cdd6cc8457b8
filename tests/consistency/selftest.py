#!/usr/bin/env python3
"""Proves that the history checker can fail: each invariant, broken in every way it knows."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from judging.history import (
    MS,
    SECOND,
    Applied,
    Arrival,
    BackendEpoch,
    History,
    Op,
    Sample,
    Trouble,
    arrivals_of,
)
from judging.invariants import seen_early, violations


def op(identity: str, kind: str, began: float, ended: float, version: int, **more) -> Op:
    known = {"session": "s", "key": "k", "edge": "one", "region": "a", "status": 200}
    if kind == "write":
        known["status"] = 201
    known |= {"began": int(began * SECOND), "ended": int(ended * SECOND), "version": version}
    return Op(identity, kind=kind, **{**known, **more})


def write(identity: str, began: float, version: int = 1, **more) -> Op:
    return op(identity, "write", began, began + 0.1, version, **more)


def read(identity: str, began: float, version: int, **more) -> Op:
    return op(identity, "read", began, began + 0.1, version, **more)


def arrival(identity: str, at: float, wanted: int | None, region: str = "a", **more) -> Arrival:
    known = {"edge": "one", "status": 201, "epoch": wanted, "done": int((at + 0.01) * SECOND)}
    return Arrival(identity, region, at=int(at * SECOND), wanted=wanted, **{**known, **more})


def row(identity: str, version: int = 1, region: str = "a", epoch: int = 1, key: str = "k"):
    return Applied(identity, key, version, region, epoch)


def sample(at: float, epoch: int, state: str = "settled", edge: str = "one", since: int = 0):
    return Sample(int((at - 0.01) * SECOND), int(at * SECOND), edge, epoch, state, "a", since)


def sound() -> History:
    """A promotion from a to b, with a session that writes and reads across it."""
    return History(
        ops=[
            write("w1", 1, 1),
            read("r1", 2, 1),
            write("w2", 5, 2, region="b", edge="two"),
            read("r2", 6, 2, region="b", bound_ms=500),
        ],
        arrivals=[
            arrival("w1", 1.01, 1),
            arrival("w2", 5.02, 1, "a", edge="two", status=421, epoch=None),
            arrival("w2", 5.05, 2, "b", edge="two"),
        ],
        applied=[row("w1", 1), row("w2", 2, "b", 2)],
        backends=[
            BackendEpoch(1, "a", 1, "primary"),
            BackendEpoch(2, "b", 1, "replica"),
            BackendEpoch(3, "b", 2, "primary"),
        ],
        samples=[sample(1, 1), sample(3, 1, "unknown", since=7), sample(4, 2)],
    )


class Checking(unittest.TestCase):
    def found(self, history: History) -> set[int]:
        return {violation.invariant for violation in violations(history)}

    def test_a_sound_history(self) -> None:
        self.assertEqual(violations(sound()), [])

    def test_1_two_regions_have_rows_of_one_epoch(self) -> None:
        history = sound()
        history.ops.append(write("w3", 8, 3))
        history.applied.append(row("w3", 3, "a", 2))
        self.assertEqual(self.found(history), {1})

    def test_1_an_executed_write_counts_even_if_its_row_is_gone(self) -> None:
        history = sound()
        history.ops.append(write("w3", 8, 0, status=0))
        history.arrivals.append(arrival("w3", 8.01, 2, "a"))
        self.assertEqual(self.found(history), {1})

    def test_1_the_old_region_goes_on_after_the_new_one_has_begun(self) -> None:
        history = sound()
        history.ops.append(write("w3", 8, 3))
        history.applied.append(row("w3", 3, "a", 1))
        self.assertEqual(self.found(history), {1})

    def test_1_writes_that_overlap_say_nothing_of_the_order(self) -> None:
        history = sound()
        history.ops.append(op("w3", "write", 5.05, 8, 3, session="t"))
        history.applied.append(row("w3", 3, "a", 1))
        self.assertEqual(self.found(history), set())

    def test_2_a_backend_goes_back(self) -> None:
        history = sound()
        history.backends.append(BackendEpoch(4, "b", 1, "replica"))
        self.assertEqual(self.found(history), {2})

    def test_2_an_edge_goes_back(self) -> None:
        history = sound()
        history.samples.append(sample(9, 1))
        self.assertEqual(self.found(history), {2})

    def test_2_a_worker_of_an_edge_goes_back(self) -> None:
        history = sound()
        history.ops += [write("w3", 8, 3, region="b", edge="two"), write("w4", 9, 0, status=503)]
        history.arrivals += [
            arrival("w3", 8.01, 2, "b", edge="two"),
            arrival("w4", 9.01, 1, "b", edge="two", status=421, epoch=None),
        ]
        history.applied.append(row("w3", 3, "b", 2))
        self.assertEqual(self.found(history), {2})

    def test_3_a_write_for_the_old_epoch_after_the_promotion_is_known(self) -> None:
        history = sound()
        history.arrivals.append(arrival("w9", 9, 1, status=421, epoch=None))
        self.assertEqual(self.found(history), {3})

    def test_3_a_write_without_an_epoch_is_no_better(self) -> None:
        history = sound()
        history.arrivals.append(arrival("w9", 9, None, status=421))
        self.assertEqual(self.found(history), {3})

    def test_3_what_lay_in_front_of_a_stopped_region_was_sent_before(self) -> None:
        history = sound()
        history.arrivals.append(arrival("w9", 9, 1, status=421, epoch=None))
        history.troubles.append(Trouble("a", 2 * SECOND, 9 * SECOND))
        self.assertEqual(self.found(history), set())
        history.troubles[0] = Trouble("a", 5 * SECOND, 9 * SECOND)
        self.assertEqual(self.found(history), {3})

    def test_4_an_acknowledged_write_is_lost(self) -> None:
        history = sound()
        history.applied.pop(0)
        self.assertEqual(self.found(history), {4})

    def test_4_a_write_is_applied_twice(self) -> None:
        history = sound()
        history.applied.append(row("w1", 9))
        self.assertEqual(self.found(history), {4})

    def test_4_a_write_that_failed_is_applied_twice(self) -> None:
        history = sound()
        history.ops.append(write("w3", 8, 0, status=504))
        history.applied += [row("w3", 3, "b", 2), row("w3", 4, "b", 2)]
        self.assertEqual(self.found(history), {4})

    def test_4_a_write_was_executed_by_the_old_primary_and_by_the_new_one(self) -> None:
        history = sound()
        history.arrivals.append(arrival("w2", 5.01, 1, "a", edge="two"))
        self.assertEqual(self.found(history), {4})

    def test_4_a_row_that_nobody_wrote_and_a_version_made_twice(self) -> None:
        history = sound()
        history.applied.append(row("w7", 7, "b", 2))
        self.assertEqual(self.found(history), {4})
        history = sound()
        history.ops.append(write("w3", 8, 2, region="b"))
        history.applied.append(row("w3", 2, "b", 2))
        self.assertEqual(self.found(history), {4})

    def test_4_a_write_that_failed_may_be_applied(self) -> None:
        history = sound()
        history.ops.append(write("w3", 8, 0, status=504))
        history.applied.append(row("w3", 3, "b", 2))
        self.assertEqual(self.found(history), set())

    def test_5_an_own_write_is_not_seen(self) -> None:
        history = sound()
        history.ops.append(read("r9", 9, 1, region="c", edge="two"))
        self.assertEqual(self.found(history), {5})

    def test_5_a_read_goes_back(self) -> None:
        history = sound()
        history.ops += [
            read("r8", 8, 2, session="t"),
            read("r9", 9, 1, session="t"),
            read("r8", 8, 0, session="u", status=404),
        ]
        self.assertEqual(self.found(history), {5})

    def early(self, **second) -> History:
        """A replica shows a write before the primary, a, has acknowledged it."""
        history = sound()
        history.ops += [
            op("w3", "write", 8, 9, 3, session="w", region="b"),
            read("r8", 8.2, 3, session="t", region="c"),
            read("r9", 8.5, 2, session="t", **{"region": "b", **second}),
        ]
        history.applied.append(row("w3", 3, "b", 2))
        return history

    def test_5_a_replica_may_show_what_the_primary_has_not_acknowledged_yet(self) -> None:
        history = self.early()
        self.assertEqual(self.found(history), set())
        self.assertEqual([op.id for op in seen_early(history)], ["r9"])

    def test_5_but_no_other_replica_may_miss_it_nor_the_primary_once_it_has(self) -> None:
        self.assertEqual(self.found(self.early(region="a")), {5})
        history = self.early()
        history.ops[-1] = read("r9", 9.5, 2, session="t", region="b")
        self.assertEqual(self.found(history), {5})

    def test_5_a_note_that_is_gone_goes_back(self) -> None:
        history = sound()
        history.ops.append(read("r9", 9, 0, status=404))
        self.assertEqual(self.found(history), {5})

    def test_5_an_error_is_no_stale_answer(self) -> None:
        history = sound()
        history.ops.append(read("r9", 9, 0, status=503))
        self.assertEqual(self.found(history), set())

    def test_6_a_read_is_older_than_the_client_allows(self) -> None:
        history = sound()
        history.ops.append(read("r9", 6.0, 1, session="t", bound_ms=800))
        self.assertEqual(self.found(history), {6})
        history.ops[-1] = read("r9", 6.0, 1, session="t", bound_ms=1000)
        self.assertEqual(self.found(history), set())

    def test_6_the_route_has_a_bound_of_its_own(self) -> None:
        history = sound()
        history.route_bound_ms = 2000
        history.ops.append(read("r9", 9, 1, session="t", bound_ms=60_000))
        self.assertEqual(self.found(history), {6})

    def test_7_a_write_while_the_primary_is_unknown(self) -> None:
        for state in ("unknown", "contested"):
            history = sound()
            history.samples = [sample(2, 1, state, since=5), sample(4, 1, state, since=5)]
            history.arrivals.append(arrival("w9", 3, 1, status=421, epoch=None))
            self.assertEqual(self.found(history), {7})

    def test_7_something_may_have_happened_between_the_samples(self) -> None:
        history = sound()
        history.samples = [sample(2, 1, "unknown", since=5), sample(4, 1, "unknown", since=6)]
        history.arrivals.append(arrival("w9", 3, 1, status=421, epoch=None))
        self.assertEqual(self.found(history), set())

    def test_7_what_was_sent_just_before(self) -> None:
        history = sound()
        history.samples = [sample(2, 1, "unknown", since=5), sample(4, 1, "unknown", since=5)]
        at = 2 + 0.2
        history.arrivals.append(arrival("w9", at, 1, status=421, epoch=None))
        self.assertEqual(self.found(history), set())


class Reading(unittest.TestCase):
    def test_a_journal(self) -> None:
        lines = [
            '{"what": "state", "at": 1, "epoch": 3, "role": "primary"}',
            '{"what": "arrived", "number": 1, "at": 2, "id": "w", "edge": "one", "wanted": 3}',
            '{"what": "done", "number": 1, "at": 5, "status": 201, "epoch": 3}',
            '{"what": "arrived", "number": 2, "at": 6, "id": "v", "edge": "one", "wanted": null}',
            '{"what": "don',
        ]
        arrivals, epochs = arrivals_of("a", lines)
        self.assertEqual(
            arrivals,
            [Arrival("w", "a", "one", 2, 3, 5, 201, 3), Arrival("v", "a", "one", 6, None)],
        )
        self.assertEqual(epochs, [BackendEpoch(1, "a", 3, "primary")])

    def test_units(self) -> None:
        self.assertEqual(SECOND, 1000 * MS)


if __name__ == "__main__":
    unittest.main()
