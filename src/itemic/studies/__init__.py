"""itemic.studies: many runs that answer one question, each a command that can be killed and goes on.

``ledger`` keeps which runs are done, ``sharing`` lends one run's artefacts to the next, ``page`` writes what came out.
"""
