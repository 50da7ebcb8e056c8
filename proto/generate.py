"""Generate `host/easytier_host/pb/` from the .proto files beside this script: `python proto/generate.py [target folder]`.

The generator is the protoc of grpcio-tools, pinned in the test extra: code of another version differs, and code of a newer one
would need a newer protobuf at run time.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

SOURCES = Path(__file__).resolve().parent
CHECKED_IN = SOURCES.parent / "host"


def generate(target: Path) -> None:
    """Write `easytier_host/pb/*_pb2.py` and `.pyi` below `target`; RuntimeError if protoc refuses a file."""
    target.mkdir(parents=True, exist_ok=True)
    well_known = str(resources.files("grpc_tools") / "_proto")
    files = [str(path.relative_to(SOURCES)) for path in sorted(SOURCES.glob("easytier_host/pb/*.proto"))]
    arguments = ["protoc", f"-I{SOURCES}", f"-I{well_known}", f"--python_out={target}", f"--pyi_out={target}", *files]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc failed on {', '.join(files)}; see its messages above")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKED_IN)
