"""Anytime-valid statistics over sums: pure functions, no clock, no randomness, no I/O.

Each module is one procedure and can be used alone, for example from a notebook:

* ``mean``: bounded means under randomised assignment (also paired and "at least" forms)
* ``events``: relative risk from event counts
* ``asymptotic``: estimates with a variance, with t-scaling for few clusters
* ``clusters``, ``groups``: such estimates from clustered, batched or grouped sums
* ``sample_ratio``, ``distribution``, ``histogram``: assignment counts, class counts, latency bins
* ``evalues``: combining E-values; ``planning``: how much traffic a decision needs; ``mixture``: the
  supermartingales underneath
* ``arrays``: the tests over arrays, for many cells or many simulated rollouts at once

What cannot be computed from the data is a ``NotComputable`` with its reason, never NaN. A parameter
outside its domain (level, margin, v_opt) is a ``ValueError``: those are frozen before any data exist.
E-values are natural logarithms throughout.
"""
