"""The benchmarks are programs beside the packages, started as `python -m benchmarks` from the root."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
