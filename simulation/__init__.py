"""Hundreds of virtual participants in one room: what `manage.py simulate` does.

A simulation is a run like any other, through the same lifecycle, intake, strategies and trainer;
what it leaves out is HTTP. It has a home of its own, with a database and blobs, and goes on where
it was killed.

    plan.py          what is asked for, checked; and the digest that names its home
    datasets.py      the examples, and which of them are held out
    partitions.py    who holds which of them
    networks.py      which model learns them
    attacks.py       what some participants do to their updates
    speeds.py        how long each of them takes, on a virtual clock
    federation.py    the model, the participants and the run, made once
    training.py      one process that trains whatever virtual participant it is told to
    errands.py       the same by Celery's workers, whose door is tasks.py
    engine.py        round after round, until the run is done
    kept.py          what the home keeps from round to round, and what goes
    simulate.py      all of it, from beginning to end
    results.py       the curve, and what `--json` writes
    plot.py          the curve as a picture

    management/      the command
"""
