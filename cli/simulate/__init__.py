"""`accede simulate`: recorded traffic through a policy, on a virtual clock.

    recording -> traffic (with an injected harm) -> play -> summary -> shown

The router's Fold, the controller's look, decide and change are the product's own; only the clock and the
split are ours. docs/decisions/0027 says what a recording can tell and what not.
"""
