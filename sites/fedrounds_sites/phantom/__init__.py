"""Simulated hospitals: brain MRI with glioma on real anatomy. Every number from here is a phantom number."""

# a changed generator voids earlier numbers: raise this with any change that moves a voxel
VERSION = 1
