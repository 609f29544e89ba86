"""What the descriptor schemes of the discussion cost, side by side; see DESCRIPTORS.md.

device      scratch devices: sparse files behind the seam, with a tally of every line stored
scheme      what every scheme can do, and the rule of stamping that they share
linear      flat, scattered, hierarchical
compound    vmemmap-dedup, memdesc, memdesc-runs
inverted    ours: the engine itself
accesses    what drives them: made up from a seed, or recorded on a mount
measure     initialisation, bytes, lookups, wear, the share of split extents
report      tables
plots       pictures
"""
