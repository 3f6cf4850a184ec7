"""The fit kernel: many hypotheses of one analysis fitted by one compiled program.

From JSON to arrays, without JAX:
`spec` reads samples, `patches` finds what a patch changes, `members` makes the parameter sets
of a hypothesis, `census` gives parameters their columns, `batch` makes arrays, `compilation`
does all of it.

Inside the compiled program:
`interpolation`, `rows`, `local` and `likelihood` are the model, `newton` minimises, `program`
does many fits.

With its results:
`fits` runs fits, `hypotest` and `asymptotics` make CLs of them.
"""
