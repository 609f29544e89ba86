"""Age a volume through the library, and the policies of others with the same trace.

    profile     published file sizes and ages, and draws from them
    trace       files that come and go, until the device has been overwritten so often
    store       what a store is asked, and what is measured of it
    ours        a volume, its device without the content of files
    rivals      4 KiB first fit, and two trees of free space, as models
    ext4        a real ext4, fallocate only
    run         all of it, sample by sample
    report      goals, tables, JSON and plots

The only part of `pmemfs.bench` that works on the engine itself: no FUSE, no host file data.
"""
