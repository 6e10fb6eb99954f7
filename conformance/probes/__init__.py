"""All probes; importing this registers them."""

from conformance.probe import PROBES
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

__all__ = ["PROBES"]
