"""What a run shows: figures, one self-contained page, a table on the terminal, a table over seeds.

Nothing is imported here: who tells a run's end on the terminal need not load what draws its page.
"""
