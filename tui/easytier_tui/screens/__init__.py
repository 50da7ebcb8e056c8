"""Whole screens: the tables, a flow, a peer, the help, and the two dialogs."""
