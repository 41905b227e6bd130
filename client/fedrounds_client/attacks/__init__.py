"""Attacks of our own on what leaves a hospital and on what a model remembers: they show what protects and what does not.

They open cases, so they run where cases may be opened: at a hospital, and in a simulation.
"""
