"""Importing actrix first sets XLA's flags before anything starts JAX."""

import actrix  # noqa: F401
