"""Tuning: settings searched with Optuna over several seeds, the best trained again on seeds that chose nothing."""
