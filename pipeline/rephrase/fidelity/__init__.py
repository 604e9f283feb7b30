"""Does a rephrased text say anything that its source does not? Numbers, dates, units, names, negation, roles, by rules.

Nothing here reads a model. The rules know English; of other languages they compare digits, dates in digits and, where
the script has capitals for names alone, names. What they cannot judge is null, never a guess.
"""
