"""A process for the store's tests: python child.py ADDRESS TASK, with a record and a route on stdin.

compete   for each version read: try to commit it, answer `won` or `stale`
write     commit one version after another for ever, saying each number once it is committed
publish   replace the evidence of one source for ever, saying each n once it is published
trickle   the same, but one more in one cluster of each series each time
"""

from __future__ import annotations

import sys

import msgspec

from accede.errors import StaleWrite
from accede.store.evidence import Evidence, Series, SeriesKey
from accede.store.open import open_store
from accede.store.protocol import Commit, Store
from accede.store.rollouts import AuditEntry, Decision, RolloutRecord, decode_record
from accede.store.routes import ServiceRoute, decode_route


def change(record: RolloutRecord, route: ServiceRoute, version: int) -> Commit:
    entry = AuditEntry(
        at=1.0, service=record.service, rollout=record.id, actor="c", act=f"{version}", reason=""
    )
    return Commit(
        service=record.service,
        record=msgspec.structs.replace(record, version=version),
        expected_version=version - 1,
        route=msgspec.structs.replace(route, generation=version),
        expected_generation=version - 1,
        audit=(entry,),
        decision=Decision(
            rollout=record.id, number=version, at=1.0, act="", reason="", before=b"", evidence=(b"x" * 5000,),
            reports=(), analysis=None,
        ),
    )  # fmt: skip


def compete(store: Store, record: RolloutRecord, route: ServiceRoute) -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            store.commit(change(record, route, int(line)))
        except StaleWrite:
            print("stale", flush=True)
        else:
            print("won", flush=True)


def write(store: Store, record: RolloutRecord, route: ServiceRoute) -> None:
    last = store.rollout(record.service)
    version = 0 if last is None else last.version
    while True:
        version += 1
        store.commit(change(record, route, version))
        print(version, flush=True)


def publish(store: Store, record: RolloutRecord, route: ServiceRoute) -> None:
    count = 0
    while True:
        count += 1
        sums = [float(count)] * 128
        store.publish_evidence(
            Evidence(
                wire="accede.evidence/1", service=record.service, rollout=record.id, epoch=0, source="c/1",
                published=count, watermark=count,
                series={SeriesKey("stable", "", f"bin.{k}"): Series(sums, sums, sums) for k in range(50)},
            )
        )  # fmt: skip
        print(count, flush=True)


def trickle(store: Store, record: RolloutRecord, route: ServiceRoute) -> None:
    count, sums = 0, [0.0] * 128
    while True:
        sums[count % 128] += 1.0
        count += 1
        series = {
            SeriesKey("stable", "", f"bin.{k}"): Series(list(sums), list(sums), list(sums)) for k in range(50)
        }
        evidence = Evidence(
            "accede.evidence/1", record.service, record.id, 0, "c/1", count, count, series=series,
        )  # fmt: skip
        store.publish_evidence(evidence)
        print(count, flush=True)


if __name__ == "__main__":
    address, task = sys.argv[1:]
    template = decode_record(sys.stdin.readline().encode(), RolloutRecord)
    {"compete": compete, "write": write, "publish": publish, "trickle": trickle}[task](
        open_store(address), template, decode_route(sys.stdin.readline().encode())
    )
