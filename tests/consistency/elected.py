"""The part in which Patroni elects: its automatic failover is followed."""

from harness import judge
from harness.judge import Check
from judging.history import MS
from judging.invariants import violations
from parts import Part, causes, spread
from topology import patroni
from topology.edge import Settings
from topology.links import EDGES
from topology.patroni import PatroniSite

FOLLOWED_SECONDS = 5.0  # bound of the time from the promotion to the first accepted write


class Elected(Part):
    name = "patroni"
    title = "Patroni's automatic failover after a kill -9 of the leader's region"
    short = False  # it takes twenty seconds until a leader is missed
    edge_settings = Settings(source='source = "patroni"')
    rounds = 2

    def lacking(self) -> str | None:
        return patroni.lacking()

    def edge_names(self) -> tuple[str, ...]:
        return EDGES[:1]  # Patroni's REST interface has one address

    def make_site(self) -> PatroniSite:
        return PatroniSite(self.folder, self.setting.cpus)

    def run(self) -> list[Check]:
        self.watch()
        crowd = self.crowd("c", sessions=12, write_share=0.5)
        crowd.wait(3)
        elected = []
        rounds = 1 if self.setting.plan.name == "short" else self.rounds
        for _ in range(rounds):
            old = self.site.primary
            _, seconds = self.site.lose_leader()
            elected.append(round(seconds, 1))
            self.until_settled(20)
            crowd.wait(2)
            self.site.take_back(old)
            self.site.until_whole()
            crowd.wait(2)
        ops = crowd.finish()
        self.site.until_whole()
        history = self.history(ops)
        found = violations(history)
        if found:
            self.keep_logs()
        followed = [self._first_write(ops, at, name) for at, name in self.site.promotions]
        failed = [op for op in ops if op.status not in (200, 201, 404)]
        self.figures |= {
            "patroni": patroni.version(),
            "operations": len(ops),
            "failed": causes(failed),
            "leader_lost_to_promotion_s": elected,
            "promotion_to_first_write_ms": followed,
            "violations": [f"{each.invariant}: {each.text}" for each in spread(found)],
        }
        late = None if None in followed else max(followed) / 1000
        return [
            judge.at_least("failovers", len(followed), rounds),
            judge.at_most("promotion to the first write", late, FOLLOWED_SECONDS, " s"),
            judge.none("violations of the invariants", len(found)),
        ]

    @staticmethod
    def _first_write(ops, promoted_at: int, name: str) -> float | None:
        ended = [
            op.ended
            for op in ops
            if op.is_acknowledged and op.region == name and op.ended > promoted_at
        ]
        return round((min(ended) - promoted_at) / MS, 1) if ended else None
