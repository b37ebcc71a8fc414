"""Loads every strategy's kernels, and compiles those that never were, when it is imported.

A worker that folds names this module with `--include`: what would make its first round wait (half
a second, several on a new machine) is done before it asks for work, once for all its processes.
"""

import numpy as np

from rounds import aggregation

_VALUES = np.ones(1, np.float32)
_FEW = [aggregation.Contribution(_VALUES, samples=1, key=key) for key in range(8)]
for _name in aggregation.names():
    _strategy = aggregation.build(_name)
    _strategy.apply(_strategy.init(_VALUES), _FEW)
