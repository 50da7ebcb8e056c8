"""The one part of the build that pyproject.toml cannot say: whether the native modules are built.

The environment variable EASYTIER_NATIVE decides: 0 leaves them out and gives a wheel for every platform, 1 makes a failure to
build them an error. Unset, they are built where cargo is found; without it, or if it fails, everything but the user-space TCP
stack is installed all the same, and the node does in Python what its own module would do several times faster.
"""

import os
import shutil
import sys

from setuptools import setup
from setuptools_rust import RustExtension

MODULES = {"easytier_kcp_plugin._native": "native/Cargo.toml", "easytier_host._native": "native/host/Cargo.toml"}

wanted = os.environ.get("EASYTIER_NATIVE", "")
if wanted not in ("", "0", "1"):
    raise SystemExit(f"EASYTIER_NATIVE is {wanted!r}: 0 leaves the native modules out, 1 requires them")

if wanted == "0" or (not wanted and shutil.which("cargo") is None):
    sys.stderr.write(
        "easytier-kcp-plugin: no native modules (they need cargo): no user-space TCP stack (--use-smoltcp), a slower node\n"
    )
    setup()
else:
    setup(
        rust_extensions=[
            RustExtension(module, path=manifest, args=["--locked"], debug=False, optional=not wanted, rust_version=">=1.91")
            for module, manifest in MODULES.items()
        ],
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
    )
