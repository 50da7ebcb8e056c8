"""The terminal monitor: what a node carries, by which transport, and why.

    feed ----> records ----> model ----> columns, filters, words, graph ----> widgets, screens ----> app
    (thread)   (values)      (state)     (texts, all of it without a terminal)   (draw, and nothing else)

`feed` asks a node by its portal, or `recording` replays what an earlier session saw; both give `Update`s.  `model` turns them
into flows, peers and rates.  Everything up to the texts runs without Textual, which an import contract enforces.
"""
