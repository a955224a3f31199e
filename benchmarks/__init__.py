"""Benchmarks: each measure beside a yardstick, in turn, in one run on servers of its own.

Ratios are what to look at: machines differ, and the same machine differs from minute to minute.
"""
