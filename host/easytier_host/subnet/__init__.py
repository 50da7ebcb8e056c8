"""What peers send to networks behind this node, and to the node itself where it has no device.

::

    datapath.Inbound --Data without NO_PROXY--> router   sorts: offered or not, may the sender use that address, whole or not
                                                  |-- fragments   pieces put together, answers cut
                                                  |-- udp         a socket of the kernel for each source
                                                  |-- icmp        echo requests, with identifiers of our own
                                                  '-- tcp         dial first, then let a stack end the connection on `overlay`
    datapath.Outbound <--Data with NO_PROXY------ answers, from the addresses that were asked

Destinations are those of `dial`, and see this node's address as the source, so they need no route back.  IPv4 alone, as stock.
With `proxy_forward_by_system` nothing of this runs, and the kernel forwards what comes from the device.
"""
