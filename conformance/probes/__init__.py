"""All probes; importing this registers them."""

from conformance.probes import (  # noqa: F401
    arrays,
    autoreset,
    ends,
    exploration,
    masks,
    memory,
    observations,
    policies,
    repeat,
    statistics,
    updates,
)
from conformance.probe import PROBES

__all__ = ["PROBES"]
