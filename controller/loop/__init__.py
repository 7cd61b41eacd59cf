"""What goes round: every 250 ms every open rollout is looked at, and what is decided is performed.

`loop` begins a round if this controller leads (`leading`), `rounds` takes services by groups, `reconciling`
is one service's part. `records` and `telling` keep a round cheap, `faults` says what fails, `gone` and
`tidying` clear up.
"""
