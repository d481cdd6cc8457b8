"""Clients that take their time are no reason for others to wait."""

from cases.base import Case
from harness.judge import Check, at_least
from harness.reconcile import latencies
from harness.traffic import SlowClients
from harness.trial import Trial, rounded
from lab.load import percentile


class Slow(Case):
    """Judged is the crowd that is there. While it arrives, each reader's megabyte is fetched as
    well: the bystander's latency then is a figure beside it.
    """

    name = "slow-clients"
    title = "slow heads, slow bodies, slow readers"
    peers = True
    short = True

    def run(self, trial: Trial) -> None:
        count = trial.plan.slow
        trial.calm()
        site = trial.site
        with SlowClients(site.address, trial.folder, site.cpus, count, count, count) as crowd:
            trial.figures["crowd"] = crowd.connected()
            trial.strike()
            trial.hold()
            trial.heal()
        trial.settle()

    def checks(self, trial: Trial) -> list[Check]:
        arrival = latencies(trial.of("bystander"), trial.calm_ended_at, trial.fault_at)
        trial.figures["arrival_p99_ms"] = rounded(percentile(arrival, 0.99))
        return [
            at_least("slow clients", trial.figures["crowd"], trial.plan.slow * 2.5),
            *trial.no_failed_get(),
            *trial.no_failed_post(),
            *trial.bystander_is_undisturbed(),
        ]
