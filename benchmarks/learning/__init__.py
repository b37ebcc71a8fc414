"""Proof that it learns: the papers' experiments, run through `manage.py simulate`.

python -m benchmarks.learning [EXPERIMENT …] [--jobs N] [--nice] [--until-time HH:MM]
python -m benchmarks.learning.plain        a round of the paper's CNN beside a plain Keras loop
python -m benchmarks.learning.exactness    strategies beside independent implementations
python -m benchmarks.learning.report       tables and pictures of docs/learning.md

experiments.py   each cell: what is asked of the simulator, and what the paper says
stored.py        results/<experiment>/<cell>-seed<k>.json: what a simulation showed
pictures.py      curves as SVG
"""
