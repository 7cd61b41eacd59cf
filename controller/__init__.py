"""The control plane: evidence in, decisions and routes out.

`process` starts it: the `loop` looks at every `rollout`, `analyse` judges its `evidence` (`validity` first,
then the cells of `analysis`, many at once by `sweep`) by the statistics of `stats`; `labels` come later.
`api` serves the command, `plan` says how long a rollout will take.
"""
