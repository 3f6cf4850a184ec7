"""The broker's side of the stand-in: queues, tasks out, results and heartbeats in."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pika
import pika.exceptions

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("standin")

EXCHANGE = "results"
PREFIX = "tg."
"""Of the queue of one task group's results."""
_BROKEN = (pika.exceptions.AMQPError, OSError)


def pack(kind: str, data: dict[str, Any]) -> bytes:
    """Frame a message as the endpoint and the SDK do: a version byte, then JSON."""
    return b"\x01" + json.dumps({"message_type": kind, "data": data}).encode()


def unpack(body: bytes) -> tuple[str, dict[str, Any]]:
    message = json.loads(body[1:])
    return message["message_type"], message["data"]


class Broker:
    """Publishes from any thread; consumes in one of its own, and comes back after an outage."""

    def __init__(self, url: str, on_message: Callable[[str, bytes], None]) -> None:
        self.url = url
        self._on_message = on_message
        self._lock = threading.Lock()
        self._channel: Any = None
        threading.Thread(target=self._consume_forever, daemon=True).start()

    def address(self, queue: str, routing_key: str | None = None) -> dict[str, Any]:
        """Return how an endpoint finds a queue, or publishes under a routing key."""
        info: dict[str, Any] = {"connection_url": self.url, "queue": queue}
        if routing_key is not None:
            publish = {"exchange": EXCHANGE, "mandatory": True, "routing_key": routing_key}
            info |= {"exchange": EXCHANGE, "queue_publish_kwargs": publish}
        return info

    def declare(self, queue: str, *, purge: bool = False) -> None:
        def work(channel: Any) -> None:
            channel.queue_declare(queue, durable=True)
            if purge:
                channel.queue_purge(queue)

        self._with_channel(work)

    def publish(self, queue: str, body: bytes, **properties: Any) -> None:
        props = pika.BasicProperties(delivery_mode=2, **properties)
        self._with_channel(lambda channel: channel.basic_publish("", queue, body, props))

    def _with_channel(self, work: Callable[[Any], None]) -> None:
        with self._lock:
            for attempt in range(2):
                try:
                    if self._channel is None:
                        self._channel = self._connect()
                    work(self._channel)
                except _BROKEN:
                    self._channel = None
                    if attempt:
                        raise
                else:
                    return

    def _connect(self) -> Any:
        parameters = pika.URLParameters(self.url)
        parameters.heartbeat = 0
        return pika.BlockingConnection(parameters).channel()

    def _consume_forever(self) -> None:
        while True:
            with contextlib.suppress(*_BROKEN):
                channel = self._connect()
                channel.exchange_declare(EXCHANGE, durable=True)
                for queue in ("result", "heartbeat"):
                    channel.queue_declare(queue, durable=True)
                    channel.queue_bind(queue, EXCHANGE, queue)
                    channel.basic_consume(queue, self._received)
                channel.start_consuming()
            time.sleep(0.5)

    def _received(self, channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        try:
            self._on_message(method.routing_key, body)
        except Exception:
            log.exception("cannot take a message of %s", method.routing_key)
        channel.basic_ack(method.delivery_tag)
