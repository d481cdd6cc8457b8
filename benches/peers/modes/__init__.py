"""The measurements. Each module says which cases it has for a proxy; `MODES` names them all."""

from modes import idle_many, latency, log, plain, reload, scale, workers

MODES = {
    **{name: plain.cases for name in plain.NAMES},
    "rate": latency.cases,
    "log": log.cases,
    "idle100k": idle_many.cases,
    "scale": scale.cases,
    "reload": reload.cases,
    "workers": workers.cases,
}
YARDSTICK = plain.NAMES
UNTIMED = {"idle", "idle100k"}  # what connections cost is memory
