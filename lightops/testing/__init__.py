"""Cases, data, oracles and tolerances: what the tests, the micro-benchmarks and `lightops check` judge kernels with."""
