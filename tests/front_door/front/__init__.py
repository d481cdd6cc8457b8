"""Meridian at its front door: certificates, the edge, what stands behind it, and the bystander.

The sandbox, the load and the bounds are those of the fault suite, processes and ports those of the
benchmarks, used from where they are.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tests" / "faults"))
sys.path.append(str(ROOT / "benches" / "peers"))
