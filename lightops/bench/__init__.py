"""The engine behind `lightops bench`: real networks, real inputs, every contestant in one process.

Nothing in the package imports this one; it may import everything. `subjects` says what is measured, `contestants` and
`engines` who runs it, `runner` how it is timed, `verify` whether the answers are right, `memory` what it allocates and
`report` what is written down.
"""
