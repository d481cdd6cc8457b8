"""PostgreSQL in three regions, the example application before each, Meridian before them.

The sandbox and the bounds are those of the fault suite, processes and ports those of the
benchmarks, used from where they are.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tests" / "faults"))
sys.path.append(str(ROOT / "benches" / "peers"))
