"""The engine behind `lightops train`: a network, real data, one loop that can stop and go on bit for bit.

Nothing in the package imports this one but the command line. `data` says what is shown, `network` what is trained,
`trainer` how an epoch runs, `checkpoint` what a continuation needs, `job` ties them to a folder and `curves` draws.
"""
