"""The one part of the build that pyproject.toml cannot say: whether the native module is built.

The environment variable EASYTIER_NATIVE decides: 0 leaves it out and gives a wheel for every platform, 1 makes a failure to
build it an error. Unset, it is built where cargo is found; without it, or if it fails, everything but the user-space TCP stack
is installed all the same.
"""

import os
import shutil
import sys

from setuptools import setup
from setuptools_rust import RustExtension

wanted = os.environ.get("EASYTIER_NATIVE", "")
if wanted not in ("", "0", "1"):
    raise SystemExit(f"EASYTIER_NATIVE is {wanted!r}: 0 leaves the native module out, 1 requires it")

if wanted == "0" or (not wanted and shutil.which("cargo") is None):
    sys.stderr.write("easytier-kcp-plugin: no native module, and so no user-space TCP stack (--use-smoltcp): it needs cargo\n")
    setup()
else:
    setup(
        rust_extensions=[
            RustExtension(
                "easytier_kcp_plugin._native",
                path="native/Cargo.toml",
                args=["--locked"],
                debug=False,
                optional=not wanted,
                rust_version=">=1.91",
            )
        ],
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
    )
