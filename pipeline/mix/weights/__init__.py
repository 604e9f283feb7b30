"""Mixtures: the swarm, bounds, objective, proposal and its verification."""
