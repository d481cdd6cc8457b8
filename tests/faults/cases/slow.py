"""Clients that take their time are no reason for others to wait."""

from cases.base import Case
from harness.judge import Check, at_least
from harness.traffic import SlowClients
from harness.trial import Trial


class Slow(Case):
    name = "slow-clients"
    title = "slow heads, slow bodies, slow readers"
    short = True

    def run(self, trial: Trial) -> None:
        count = trial.plan.slow
        trial.calm()
        trial.strike()
        site = trial.site
        with SlowClients(site.address, trial.folder, site.cpus, count, count, count) as crowd:
            trial.figures["crowd"] = crowd.connected()
            trial.hold()
            trial.heal()
        trial.settle()

    def checks(self, trial: Trial) -> list[Check]:
        return [
            at_least("slow clients", trial.figures["crowd"], trial.plan.slow * 2.5),
            *trial.no_failed_get(),
            *trial.no_failed_post(),
            *trial.bystander_is_undisturbed(),
        ]
