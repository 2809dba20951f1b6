"""Experiments: real data, small models and one loop that trains them with any optimizer."""
