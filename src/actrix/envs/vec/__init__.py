"""Environments with Stable-Baselines3's `VecEnv` surface, over any `HostEnv`."""
