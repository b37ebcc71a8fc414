"""Loads every strategy's kernels, and compiles those that never were, when it is imported.

A worker that folds names this module with `--include`: what would make its first round wait (half
a second, several on a new machine) is done before it asks for work, once for all its processes.
Strategies of other packages are theirs to warm.
"""

import numpy as np

from rounds import aggregation

_VALUES = np.ones(1, np.float32)
_REPORTS = {"steps": 1.0, "initial_loss": 1.0}
_FEW = [aggregation.Contribution(_VALUES, 1, key, reports=_REPORTS) for key in range(8)]
_SETTING = aggregation.Setting(hyperparameters={"learning_rate": 1.0})
for _name in aggregation._STRATEGIES:
    _strategy = aggregation.build(_name)
    _strategy.apply(_strategy.init(_VALUES), _FEW, setting=_SETTING)
