"""What a look is made of, cell by cell; the whole is `controller.analyse`.

A policy's `cells` are the single comparisons; `comparison`, `groups` and `gaps` say what each is asked of,
`methods` with which statistic, `reading` what it says, `wording` how it is told. `sums` brings evidence into
arrays, `freeze` and `reference` fix what a baseline fixes, `batching` and `length` the batches of time. The
statistics themselves are in `controller.stats`.
"""
