"""The fit kernel: many hypotheses of one analysis fitted by one compiled program.

From JSON to arrays, without JAX:
`spec` reads samples, `patches` finds what a patch changes, `members` makes the parameter sets
of a hypothesis, `census` gives parameters their columns, `batch` makes arrays, `compilation`
does all of it.

Inside the compiled program:
`interpolation`, `rows`, `local` and `likelihood` are the model, `newton` minimises, `program`
does many fits, `details` finds what is told of one.

With its results:
`fits` runs fits, `retries` again where they fail, `hypotest` and `asymptotics` make CLs of them,
`strengths` at signal strengths chosen as one goes along; `covariance` and `intervals` are for
best fits and impacts, `toys` for pseudo-data.
"""
