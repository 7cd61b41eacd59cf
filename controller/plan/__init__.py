"""`accede plan`: how many requests and how long a policy needs at some traffic, and which gates never can.

`assumed` and `planned` are what is given and what is answered. `sources` and `traffic` say what comes,
`expected` and `forecast` what a look would see of it in the mean, `deciding` when a comparison decides on
that, `timeline` puts the steps after one another, `advice` says what to change, and `service` asks all of it
of a real service.
"""
