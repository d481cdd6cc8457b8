"""Endpoints that die, fall silent, or are cut off; alone and as a whole region."""

import subprocess

from cases.base import Case
from harness.judge import Check, at_most
from harness.trial import Trial, rounded
from harness.world import REGIONS, Endpoint

REFUSED_SECONDS, SILENT_SECONDS = 1.0, 2.0
AT_ONCE_SECONDS = 0.05  # a kill takes a moment


class EndpointFault(Case):
    needs = ("packets",)
    peers = True
    out_within = REFUSED_SECONDS
    excused = AT_ONCE_SECONDS  # a POST begun so long after the fault may still fail

    def victims(self, trial: Trial) -> list[Endpoint]:
        return [trial.api[1]]

    def strike(self, trial: Trial) -> None:
        raise NotImplementedError

    def heal(self, trial: Trial) -> None:
        raise NotImplementedError

    def run(self, trial: Trial) -> None:
        trial.calm()
        trial.strike(lambda: self.strike(trial))
        trial.hold()
        trial.heal(lambda: self.heal(trial))
        trial.settle()

    def checks(self, trial: Trial) -> list[Check]:
        ejection = trial.figures["ejection_s"]
        return [
            *trial.no_failed_get(),
            *trial.posts_fail_only_under_way(self.excused),
            at_most("time to ejection", ejection, self.out_within, " s"),
            *trial.bystander_is_undisturbed(),
        ]


class Kill(EndpointFault):
    name = "kill"
    title = "kill -9 of one endpoint of three"
    short = True

    def strike(self, trial: Trial) -> None:
        trial.backends.kill(*self.victims(trial))

    def heal(self, trial: Trial) -> None:
        trial.backends.start(*self.victims(trial))


class Freeze(EndpointFault):
    name = "freeze"
    title = "SIGSTOP of one endpoint of three"
    short = True
    out_within = excused = SILENT_SECONDS

    def strike(self, trial: Trial) -> None:
        for victim in self.victims(trial):
            trial.backends.freeze(victim)

    def heal(self, trial: Trial) -> None:
        for victim in self.victims(trial):
            trial.backends.thaw(victim)


class Drop(EndpointFault):
    name = "drop"
    title = "packets to and from one endpoint of three dropped"
    needs = ("packets", "iptables")
    out_within = excused = SILENT_SECONDS

    def strike(self, trial: Trial) -> None:
        firewall("-I", self.victims(trial))

    def heal(self, trial: Trial) -> None:
        firewall("-D", self.victims(trial))


class Refuse(EndpointFault):
    name = "refuse"
    title = "one endpoint of three refuses new connections; those it has live on"
    needs = ("packets", "iptables")

    def checks(self, trial: Trial) -> list[Check]:
        """What goes over the connections that live on is answered: only new ones count."""
        ejection = trial.ejection(self.victims(trial), connects_only=True)
        trial.figures["ejection_s"] = rounded(ejection)
        return super().checks(trial)

    def strike(self, trial: Trial) -> None:
        refuse("-I", self.victims(trial))

    def heal(self, trial: Trial) -> None:
        refuse("-D", self.victims(trial))


class RegionFault(EndpointFault):
    """The region that reads go to. Writes go to another one: they are bystanders, too."""

    peers = False
    regions = REGIONS

    def victims(self, trial: Trial) -> list[Endpoint]:
        return [endpoint for endpoint in trial.api if endpoint.region == REGIONS[0].name]

    def checks(self, trial: Trial) -> list[Check]:
        return [*super().checks(trial), *trial.no_failed_post()]


class KillRegion(RegionFault, Kill):
    name = "kill-region"
    title = "kill -9 of a whole region: it refuses connections"
    short = True


class FreezeRegion(RegionFault, Freeze):
    name = "freeze-region"
    title = "SIGSTOP of a whole region"
    short = False


class DropRegion(RegionFault, Drop):
    name = "drop-region"
    title = "packets to and from a whole region dropped"
    short = True


def firewall(action: str, endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        for way in ("--dport", "--sport"):
            rule = ["INPUT", "-p", "tcp", way, str(endpoint.port), "-j", "DROP"]
            subprocess.run(["iptables", "-w", action, *rule], check=True)


def refuse(action: str, endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        rule = ["INPUT", "-p", "tcp", "--syn", "--dport", str(endpoint.port)]
        rule += ["-j", "REJECT", "--reject-with", "tcp-reset"]
        subprocess.run(["iptables", "-w", action, *rule], check=True)
