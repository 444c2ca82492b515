"""Answers for the labs' graders: a module per lab, in which

WRONG[step] holds at least three wrong answers, each wrong in a way of its own that a reader might think of, and
RIGHT[step] right ones that are written otherwise than the solution in the lab.
"""
