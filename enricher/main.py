# SPDX-License-Identifier: Apache-2.0
"""The enricher service: wiring only.

In order: topics, history, the API's lists (services before nodes before pods, so that a pod's services are known
with it), then the consumer group. What follows the topics and the API runs beside it until the group has stopped.
"""

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from importlib.util import find_spec

from common import gc_settings
from common.clock import now_ms
from common.entry_point import entry_point
from common.errors import Stopped
from common.in_parts import in_parts
from common.kafka import clients
from common.kafka.partitions import Partitions
from common.kafka.publish import PublishCounters, Publisher
from common.service import lifecycle
from common.service.running import Service
from common.task_group import TaskGroup
from enricher.delivery.deps import Deps
from enricher.delivery.incoming.admission import Nodes
from enricher.delivery.incoming.waiting import LateSenders
from enricher.delivery.pipeline import Pipeline
from enricher.delivery.topology_topic import TopologyTopic, read_states
from enricher.index.cidr_check import findings
from enricher.index.cidrs import CidrMap, load_cidr_map
from enricher.index.ownership import Index
from enricher.index.ready import ReadyPods
from enricher.index.resolve import Resolver
from enricher.kube.cluster import ClusterView
from enricher.kube.follower import Follower
from enricher.metrics import EnricherMetrics
from enricher.settings import EnricherSettings
from schemas.topics import TopicNames

log = logging.getLogger(__name__)

# How often it is looked where ready pods are: all objects of the index are.
READY_SECONDS = 60.0


@entry_point("run enricher", EnricherSettings)
def main(settings: EnricherSettings) -> int:
    """Run the enricher; return its exit status."""
    if settings.topology is None and find_spec("kubernetes_asyncio") is None:
        raise ModuleNotFoundError(name="kubernetes_asyncio")
    return lifecycle.run("enricher", settings, lambda running: run(running, settings))


async def run(running: Service, settings: EnricherSettings) -> None:
    """Run until told to stop."""
    running.health.starting("pipeline", "topics, history and the lists of the API come first")
    index = Index()
    metrics = EnricherMetrics(running.registry, index)
    cluster = ClusterView(
        index,
        live=settings.topology is None,
        tell_left_out=metrics.left_out,
        tell_unheard=metrics.unheard,
        namespace_labels=settings.label_names,
        watches_slices=settings.kube_endpoint_slices,
    )
    cidrs = load_cidr_map(settings.cidr_map)
    metrics.expect(cidrs)
    others = {name: Index() for name in settings.prefixes}
    patience = LateSenders(cluster, Resolver(index, cidrs, others), metrics, settings.late_seconds)
    counters, partitions = PublishCounters(running.registry), Partitions(running, metrics.lag_records)
    publisher = Publisher(running, settings, counters)
    deps = Deps(running, settings, settings.policy, cluster, patience, counters, partitions, metrics, Nodes(index))
    pipeline = Pipeline(deps)
    follower = None
    if settings.topology is not None:
        cluster.load(read_states(settings.topology))
    else:
        follower = Follower(running, settings, cluster, metrics)
        await follower.open()
    try:
        async with TaskGroup() as tasks:
            wanted = _topics(settings)
            watching = clients.watch_topics(running, settings, wanted, dead_letters=True)
            looking = tasks.create_task(watching, name="watch-topics")
            await clients.wait_for_topics(running, settings, wanted)
            following = [
                tasks.create_task(work, name=f"topology-{name}")
                for name, other in others.items()
                for work in await _followed(running, settings, settings.prefixes[name], other, metrics, publisher)
            ]
            if follower is None:
                _question(cidrs, cluster)
                gc_settings.settle()
                await pipeline.run()
            else:
                topic = TopologyTopic(running, settings, cluster, metrics)
                show = partial(_show_ready_pods, running, ReadyPods(index), metrics)
                await _run_live(running, follower, topic, pipeline, publisher, lambda: _question(cidrs, cluster), show)
            for task in (looking, *following):
                task.cancel()
    except* Stopped:
        pass
    finally:
        await publisher.close()
        if follower is not None:
            await follower.close()


async def _followed(
    running: Service,
    settings: EnricherSettings,
    prefix: str,
    index: Index,
    metrics: EnricherMetrics,
    publisher: Publisher,
) -> list[Coroutine[None, None, None]]:
    """Read another cluster's topology topic; return what follows it and what forgets the oldest. Nobody here writes."""
    theirs = settings.model_copy(update={"topic_prefix": prefix})
    topic = TopologyTopic(running, theirs, ClusterView(index, live=False), metrics)
    await topic.read_history()
    return [topic.follow(), topic.write(publisher, lambda: False)]


async def _run_live(
    running: Service,
    follower: Follower,
    topic: TopologyTopic,
    pipeline: Pipeline,
    publisher: Publisher,
    question: Callable[[], None],
    show: Callable[[], Coroutine[None, None, None]],
) -> None:
    await topic.read_history()
    async with TaskGroup() as tasks:
        beside = [
            tasks.create_task(follower.run(), name="kube-watch"),
            tasks.create_task(topic.follow(), name="topology-follow"),
            tasks.create_task(topic.write(publisher, pipeline.owns_first), name="topology-write"),
        ]
        await follower.all_listed(running.stopping)
        if not running.stopping.is_set():
            question()
            # Not before the lists are there: a zone whose pods are not known yet would look left.
            beside.append(tasks.create_task(show(), name="ready-pods"))
            # The index outlives every collection: looking through it again and again would cost the join its speed.
            gc_settings.settle()
            await pipeline.run()
        for task in beside:
            task.cancel()


async def _show_ready_pods(running: Service, ready: ReadyPods, metrics: EnricherMetrics) -> None:
    while not running.stopping.is_set():
        await in_parts(metrics.showing(await in_parts(ready.counting(now_ms()))))
        await running.pause(READY_SECONDS)


def _question(cidrs: CidrMap, cluster: ClusterView) -> None:
    """Log what of the CIDR map may not be meant, now that the nodes are known."""
    nodes = [state for state in cluster.index.current() if state.kind == "node" and state.to_ms is None]
    for finding in findings(cidrs.entries, nodes):
        log.log(logging.WARNING if finding.wrong else logging.INFO, "CIDR map: %s", finding)


def _topics(settings: EnricherSettings) -> dict[str, int]:
    names = settings.topics
    partitioned = dict.fromkeys((names.raw, names.enriched, names.ledger), settings.partitions)
    others = (TopicNames(prefix).topology for prefix in settings.prefixes.values())
    return partitioned | dict.fromkeys((names.topology, *others), 1)
