"""A rollout's state and what moves it.

`looking` is one look at it; `machine` decides, on what `conditions` say. An operator's acts are in
`operations` and `acting`, approvals in `approving`. `performing` makes one write of a decision, with the
route (`routing`) and measurement plan (`measuring`) that follow. `explain` tells a decision, `replay` takes
it again on its stored evidence.
"""
