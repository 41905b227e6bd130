"""Joining a federation: invitation, keys, enrolment, and Flower's SuperNode kept running under our own rules."""
