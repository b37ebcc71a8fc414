"""A federated round, from open to published. Start reading at `lifecycle.py`.

What lies here, by what it is about; each file says more on its top:

    the life          lifecycle, moves (which are legal), leases, federated_evaluation, stopping
    the rules of it   rules, selection, eligibility, capabilities, handshake
    what comes in     enrolment, intake, evaluation_summary
    the numbers       aggregation/
    rows              models, migrations/, clock, tidying
    to be read        selectors (begin here), overview, history, attendance, usage, subjects,
                      round_state
    in words          preview, amounts, errors
    doors             api/, admin, decisions, tasks, management/, apps
"""
