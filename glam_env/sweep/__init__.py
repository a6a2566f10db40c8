"""Sweeps: many training runs, over games, variants and seeds.

An existing engine schedules the runs.
"""
