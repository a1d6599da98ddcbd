"""A bug report: everything that is known of a node in one archive, and what contradicts itself in it.

    collect.py       which collectors there are, in which order; their members, redacted, with a manifest in front
    from_services    what the three services answer            ┐ each collector has a name and a time limit; one that
    from_files       what is on disk, services or no services  ├ fails is told in the manifest and stops no other
    from_kernel      what the kernel has, and pods' namespaces ┘
    secrets.py       which values must not leave the node; redact.py takes them out of every member
    archive.py       members ⇄ .tar.gz
    model.py         a report as checks see it: endpoints, links, datapaths, allocations, whoever told of them
    load.py          members → model; recorded.py has what only files tell
    checks/          small pure functions over the model: what can't be true at the same time

Two lists of endpoints are taken, before everything else and after it. Only who is the same in both is *settled*, and
held against the rest: a pod that comes or goes meanwhile contradicts nothing.

What checks know is in the archive: they ask nobody, and give the same answer on any machine, today or in a year.
"""
