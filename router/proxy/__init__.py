"""The data path: what stands between a client and a version.

A request passes these rooms, in this order:

the process     worker, entrance (listening sockets), handshakes, descriptors,
                datapath (shared state and the one clock)
the client      client, heads, chunks (framing), tls, secured, tunnel (after an upgrade), answers (our own)
the table       table, matching, served (a route compiled), targets (what predicts), forwarding (headers)
the assignment  assignment, units, holding (while the body decides), rewriting, lengths
the exchange    exchange (request), answering (answer), retrying, deadlines, ages, breaker
the upstream    reach, balance, ejection, readiness, health, use, pool, connecting,
                upstream, receiver (who hears it), upstream_tls
the copies      mirror, copies, bounds, warming
the report      reporting, capture (the socket to the observer)
"""
