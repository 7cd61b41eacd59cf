"""The store on Redis or Valkey, for several routers and controllers: `store.protocol` on shared servers.

Everything of one service lies in one hash slot, so that record and route change in one script, on a Cluster
as well; what belongs to none (which services there are, who leads, reports) lies in one slot of its own.
Nothing here is imported unless an address names such a server: the client is the extra `accede[redis]`.

address     what redis://, rediss://, …+sentinel:// and …+cluster:// addresses say; no server is asked
connection  one open client of any of these kinds, its time limits; faults: what its errors mean
keys        the names under which things lie
scripts     the Lua scripts; label_scripts: those of predictions and labels
routes, commits, records, evidence, leads, labels     the parts of the store, each of one concern
store       RedisStore, which puts them together
"""
