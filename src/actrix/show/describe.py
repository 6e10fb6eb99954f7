"""What a model or checkpoint file says of itself, as text; nothing is built, imported or looked up."""

from __future__ import annotations

import json
import math
import os
from typing import Any

from actrix.files import container, modelfile
from actrix.files.container import ModelFileError, printable


def describe_file(path: str | os.PathLike) -> str:
    """Metadata and tensors of a file whose checksums are right, safe to print; raises ModelFileError."""
    header = container.read_header(path)
    meta = dict(container.read_meta(path))
    kind = meta.get("kind")
    if kind not in ("model", "checkpoint"):
        raise ModelFileError(f"{header.path} holds a {str(kind)[:80]!r}, neither a model nor a checkpoint.")
    if kind == "model":
        modelfile.check_model(header)
    for name in ("spec", "settings", "env_kwargs", "versions"):
        if not isinstance(meta.get(name) or {}, dict):
            raise ModelFileError(f"{header.path} does not fit: {name} is {str(meta[name])[:80]!r}.")
    size = header.path.stat().st_size
    lines = [f"{header.path}: {size:,} bytes, format {meta.pop('format')}, checksums right"]
    spec = meta.pop("spec", None) or {}
    rows = {name: value for name, value in meta.items() if not isinstance(value, dict)}
    for name, value in spec.items():
        rows[name] = space_text(value) if name.endswith("_space") else value
    for name in ("settings", "env_kwargs", "versions"):
        rows |= {f"{name}.{key}": value for key, value in (meta.get(name) or {}).items()}
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"  {name:{width}}  {text if len(text) <= 200 else text[:197] + '…'}")
    count = sum(math.prod(tensor.shape) for tensor in header.tensors.values())
    lines.append(f"{len(header.tensors)} tensors, {count:,} numbers")
    width = max(map(len, header.tensors), default=0)
    lines += [f"  {name:{width}}  {tensor}" for name, tensor in header.tensors.items()]
    return "\n".join(map(printable, lines))


def space_text(data: Any) -> str:
    """A space's JSON in short: 'Box(8) float32', 'Discrete(4)'."""
    if not isinstance(data, dict):
        return str(data)
    kind, inner = data.get("type"), data.get("spaces")
    if isinstance(inner, dict):
        return f"{kind}({', '.join(f'{name}: {space_text(part)}' for name, part in inner.items())})"
    if isinstance(inner, list):
        return f"{kind}({', '.join(map(space_text, inner))})"
    size = data.get("shape", data.get("n", data.get("nvec")))
    text = f"{kind}({', '.join(map(str, size)) if isinstance(size, list) else size})"
    return f"{text} {data.get('dtype')}" if kind == "Box" else text
