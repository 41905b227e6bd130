"""The study file: what is learned, from whom, and how.

`tables.py` its agreed tables · `study.py` the one object · `check.py` tables → object, all faults ·
`parse.py` text → object, with lines · `lines.py` where each key stands · `overrides.py` `-s key=value` ·
`canonical.py` the text that travels, its digest, and the resolved TOML.
"""
