"""How far from 0 and 1 a discriminator's probability is taken for true."""

import math

PROBABILITY_CLIP = 1e-5
LOG_RATIO_BOUND = math.log1p(-PROBABILITY_CLIP) - math.log(PROBABILITY_CLIP)
