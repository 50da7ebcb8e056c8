"""The network device of a node: IP packets in batches, super-packets on the kernel's side of it.

::

    base     Nic, what the data path sees of a device             NicError
    tun      open_tun -> TunNic: a Linux TUN device with its addresses and routes
    netlink  addresses and routes, in the kernel's own language   used by tun only
    memory   MemoryNic: the same without a kernel, for tests and for embedding
    offload  super-packets to packets and back, pure functions

Only `base` and `offload` are light to import; `tun` needs Linux, python-pytun and pyroute2 when a device is opened.
"""

from easytier_host.nic.base import VNET_HEADER_SIZE, Nic, NicError

__all__ = ["VNET_HEADER_SIZE", "Nic", "NicError"]
