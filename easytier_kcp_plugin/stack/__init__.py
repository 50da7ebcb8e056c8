"""TCP stacks that end connections on this machine: `kernel` by rewriting to a listener of ours, `smoltcp` in user space."""
