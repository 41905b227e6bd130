"""Differential privacy's machinery: noise from the operating system, accounts, which networks it suits.

The measures that a study names stand in `privacy/`, one file each; these are the parts they share.
"""
