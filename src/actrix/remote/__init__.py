"""Actors on Ray: processes, on this machine or others, that collect. Nothing here is imported unless it is used."""
