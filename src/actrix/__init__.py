"""actrix: deep reinforcement learning where an algorithm is three answers."""
