"""The module is there, and is what its stub says it is (`make check` compares them in full)."""

from importlib.util import find_spec

import pytest


@pytest.mark.skipif(find_spec("easytier_kcp_plugin._native") is None, reason="the native module is not built: no cargo here")
def test_the_errors_have_one_base() -> None:
    from easytier_kcp_plugin import _native

    for error in (_native.AddressInUseError, _native.ClosedError, _native.LimitError):
        assert issubclass(error, _native.StackError)
    assert not issubclass(_native.StackError, OSError | RuntimeError)
