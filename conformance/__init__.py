"""What a reinforcement learning library computes, against answers that are known: `python -m conformance --list`.

Each probe is a tiny environment or an array whose answer follows from a closed form or an exact table, computed here in
NumPy. It needs nothing but NumPy, Gymnasium and the library that is asked.
"""
