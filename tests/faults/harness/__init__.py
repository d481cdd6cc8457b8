"""What the cases share: the sandbox, backends, clients, the wire, and the reconciliation.

Processes, ports and percentiles are those of the benchmarks (benches/peers/lab), used from where
they are.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "benches" / "peers"))
