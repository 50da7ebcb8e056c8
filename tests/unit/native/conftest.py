"""Where the native module could not be built, `test_built` says so and the other tests here are left out."""

from importlib.util import find_spec

collect_ignore = (
    []
    if find_spec("easytier_kcp_plugin._native")
    else [
        "test_closing.py",
        "test_connections.py",
        "test_frames.py",
        "test_limits.py",
        "test_lossy.py",
        "test_pending.py",
        "test_pressure.py",
        "test_sending.py",
    ]
)
