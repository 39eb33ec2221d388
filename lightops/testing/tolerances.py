"""The tolerance policy of lightops: three oracles, and the numbers behind them.

Every test of a kernel takes its tolerance from here. Tests that ask whether the right block ran at all compare float32
networks to a thousandth.

T1  exact: integer data sized so that no sum rounds; the result must equal the float64 reference rounded once to the
output's dtype. T2  bounded: real data, elementwise `|result - float64 reference| <= c * u * S`; u is the unit roundoff
of the dtype, S the same sum over absolute values (`oracle.magnitude`), which is what a rounding error of any summation
order is measured by. T3  whole networks in float64 at `NETWORK_RTOL`, and `NETWORK_ATOL` of the largest output (or of
1). In float32 a whole network is no gate: ReLU flips amplify, and stock against itself in the other layout already
breaks every useful limit.
"""

import torch

UNIT_ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}

# Stock PyTorch's own worst c over 400 random BN-ReLU-conv blocks was 13 in float32 and 2 in bfloat16 (one rounding of
# the input's affine form, one of the output, the sums in float32). float64 is held to float32's figure: same kernels,
# same order of sums.
BOUND = {torch.float64: 16.0, torch.float32: 16.0, torch.float16: 4.0, torch.bfloat16: 4.0}

# A sum taken in one chain rounds once a term: where a large term comes early its error walks as the square root of the
# length. Up to here c stands as it is; beyond, it grows by that root. Measured: of 7,776 dense blocks in float32 one
# element, at 1,458 terms, reached 16.5.
CHAIN = 1024

# Below the normal range a result is rounded to a multiple of the smallest subnormal, not relative to its size.
SUBNORMAL = {torch.float64: 2.0**-1074, torch.float32: 2.0**-149, torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133}

NETWORK_RTOL, NETWORK_ATOL = 1e-9, 1e-12

# Integers up to here are exact in the accumulator: what T1's data must stay below.
EXACT_LIMIT = {torch.float64: 2.0**53, torch.float32: 2.0**24, torch.float16: 2.0**24, torch.bfloat16: 2.0**24}

# A test whose outputs are mostly zeros proves little: ReLU hides what lies below. Over a batch of exact cases at most
# this share.
ZERO_SHARE = 0.3


def chain_factor(terms: int) -> float:
    """What c is multiplied by for sums of `terms` terms."""
    return max(1.0, (terms / CHAIN) ** 0.5)
