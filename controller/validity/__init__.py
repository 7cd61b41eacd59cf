"""Whether the evidence can be trusted, before anything is concluded from it.

`checks` asks all of it: what was lost and how old evidence is (`accounts`), whether the arms got their shares
(`ratios`), look alike (`arrivals`) and lose alike (`apart`, `bodies`), and what answers leave out (`lacking`,
`coding`). `drifting` is information beside it.
"""
