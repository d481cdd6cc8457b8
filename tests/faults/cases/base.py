"""What a case is: a fault, how it strikes and heals, and the bounds that must hold."""

from pathlib import Path

from edges.base import Edge, Settings
from harness.judge import Check
from harness.traffic import GETS, POSTS, Flow
from harness.trial import Trial
from harness.world import POOL, Endpoint, Region


class Case:
    """One row of the fault table. Its docstring goes into the page."""

    name = ""
    title = ""
    needs: tuple[str, ...] = ()  # of the machine, see harness.sandbox
    short = False  # it is in the short suite as well
    peers = False  # nginx and HAProxy run it as well
    regions: tuple[Region, ...] = POOL
    flows: tuple[Flow, ...] = (GETS, POSTS)

    def refusal(self, edge: Edge) -> str | None:
        """Why the proxy cannot be asked at all; None if it can."""
        return None

    def prepared(self, edge: Edge, folder: Path) -> Edge:
        """The proxy as the case needs it."""
        return edge

    def settings(self, trial: Trial) -> Settings:
        return Settings()

    def patience(self, trial: Trial) -> float:
        """Seconds that clients wait for an answer."""
        return trial.plan.patience

    def victims(self, trial: Trial) -> list[Endpoint]:
        """Endpoints that the fault hits."""
        return []

    def run(self, trial: Trial) -> None:
        """From the calm to the settling."""
        raise NotImplementedError

    def checks(self, trial: Trial) -> list[Check]:
        """Beyond those that hold in every row; may add figures."""
        raise NotImplementedError

    def clean(self) -> None:
        """After everything has ended, however."""
