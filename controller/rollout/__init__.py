"""A rollout's state and what moves it.

`machine` decides, on what `conditions` say; an operator's acts are in `operations` and `acting`. `performing`
makes one write of a decision, with the route (`routing`) and the measurement plan (`measuring`) that follow.
`explain` tells a decision, `replay` takes it again on its stored evidence.
"""
