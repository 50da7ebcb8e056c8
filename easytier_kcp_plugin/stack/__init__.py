"""TCP stacks that end an application's connection on this machine: `kernel` by address rewriting to a listener of ours."""
