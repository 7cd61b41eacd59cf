"""All cells of a look at once: the statistics of `methods` as arrays, for controllers with many rollouts.

`program` is what a policy and its frozen constants fix, `gather` brings the sums of the epochs into arrays,
`questions` computes the tests over every tail of the epochs, `swept` puts them together cell by cell. What
the arrays do not cover (paired gates, sums that are odd, harm that is proven) is read cell by cell as ever:
the scalar `reading` is the definition, and tests hold the sweep against it.
"""
