"""Measure: mounted file systems from outside, and descriptor schemes side by side.

    process     run a program in its own group, with a time limit
    fio         the fio jobs, and what fio reports
    client      the program that does small files, source tree and sqlite (standard library only)
    workloads   what is run on each peer, and what each run measures
    peers       how each file system is made, mounted and unmounted
    rounds      interleaved rounds of all workloads on all peers
    ratios      medians, ratios and the goals of the project
    output      tables, JSON and the bar chart

    descriptors/  descriptor schemes, the engine's own among them

But for `descriptors` it knows nothing of the engine: pmemfs is mounted by its own command, like
every other peer.
"""
