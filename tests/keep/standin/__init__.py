"""A small stand-in for an Arvados cluster, for tests and benchmarks.

An API server over TLS with a discovery document of its own, and any number of keepstores over plain HTTP with the
layout of keepstore's Directory volumes on disk; enough for the Arvados SDK, arv-put, arv-ls and arv-mount. It listens
on 127.0.0.1 only, has one user, and its tokens and keys are no secrets. `cluster.Cluster` is the whole; requests are
counted, and faults and delays set, by `serving.Shape` of each server, or from outside through ``/_standin/``.
"""
