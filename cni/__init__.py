"""podlane's CNI plugins: a process that a runtime starts for every call, and that decides nothing itself.

A call takes about ten milliseconds, half of them the interpreter's own start, so everything on the way of an ADD is
made of built-in modules: no `json`, `socket`, `os`, `re`, `enum`, `dataclasses` or `typing`, which cost up to 20 ms.
The interpreter itself starts with as little as it can (utf8.py), and the modules come as one file (bundle.py).

    shim.py         one call from environment and stdin to the JSON on stdout; nothing ends in a traceback
    spec.py         the CNI specification's words: versions, codes, environment, names
    config.py       the network configuration on stdin, key by key
    jsontext.py     JSON by CPython's own scanner and encoder, without the package around them
    session.py      one call: attachment, services, deadline, steps for the log
    ipam.py         podlane-ipam, the IPAM plugin for others' interfaces: the same process under another name, with
                    ipamconfig.py, ipamadd.py, ipamcheck.py, ipammessages.py
    add.py          AllocateAddresses → CreateLink → CreateEndpoint, and what is undone when one of them fails
    chain.py        the same behind another plugin: its interface is taken over, CreateLink → CreateEndpoint
    teardown.py     DeleteEndpoint → DeleteLink → ReleaseAddresses: DEL, undo and GC
    delete.py       DEL, and what it does when a service is away
    journal.py      the deletion journal: entries that podlane-endpoint, ADD, DEL or GC carry out
    check.py        CHECK      status.py  STATUS      gc.py  GC
    result.py       the result of an ADD in the version that was asked for
    rpc.py          one gRPC call, and what its failure means in CNI's codes
    http2.py        one unary call framed by hand      hpack.py, huffman.py  its headers
    wire.py         protobuf's wire format             messages.py  the tables of the contract
    fallback.py     the same call by grpcio, for whatever http2.py does not understand
    log.py          one line per call
    launch.py       what the installed script imports; boot.py  makes the modules; utf8.py  in place of `encodings`
    install.py      puts plugin and conflist in place; bundle.py  makes the one file that the plugin loads

Nothing here imports the services: the contract is protos/.
"""
