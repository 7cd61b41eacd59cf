"""The data plane: split, forward, mirror, capture, and evidence from what was seen."""
