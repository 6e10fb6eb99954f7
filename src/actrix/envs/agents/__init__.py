"""Environments of several agents (PettingZoo's), whose agents are rows that share one policy."""
