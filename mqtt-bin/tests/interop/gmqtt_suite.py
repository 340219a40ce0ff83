"""gmqtt against a broker: MQTT 3.1.1 and 5.0.

Usage: MQTT_HOST=127.0.0.1 MQTT_PORT=1883 python gmqtt_suite.py
"""

import asyncio
import itertools
import logging

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

import suite
from suite import DEADLINE_SECONDS, HOST, PORT, check, check_each, unique

logging.getLogger("gmqtt").setLevel(logging.CRITICAL)


class Version(int):
    label = property({MQTTv311: "3.1.1", MQTTv50: "5.0"}.__getitem__)


VERSIONS = [Version(v) for v in (MQTTv311, MQTTv50)]


class Client:
    """A gmqtt client that remembers its messages, and waits for conditions with a deadline."""

    def __init__(self, version=MQTTv50, client_id=None, clean=True, will=None, **connect):
        self.version = version
        self.changed = asyncio.Condition()
        self.messages, self.acks, self.flags, self.connack_properties = [], [], None, {}
        self.client = gmqtt.Client(client_id or unique("gmqtt"), clean_session=clean, will_message=will, **connect)
        # Else it tries again, behind the back of the check that cut its connection.
        self.client.set_config({"reconnect_retries": 0, "reconnect_delay": 0})
        self.client.on_message = self._on_message
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self.client.on_unsubscribe = self._on_ack

    async def connect(self):
        await asyncio.wait_for(self.client.connect(HOST, PORT, version=self.version), DEADLINE_SECONDS)
        await self.wait(lambda: self.flags is not None)
        return self

    async def _notify(self):
        async with self.changed:
            self.changed.notify_all()

    def _later(self):
        asyncio.get_running_loop().create_task(self._notify())

    def _on_connect(self, _client, flags, _result, properties):
        self.flags, self.connack_properties = flags, properties
        self._later()

    async def _on_message(self, _client, topic, payload, qos, properties):
        self.messages.append((topic, payload, qos, properties))
        await self._notify()
        return 0

    def _on_ack(self, _client, _mid, codes, _properties=None):
        self.acks.append(codes)
        self._later()

    async def wait(self, condition):
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(condition), DEADLINE_SECONDS)

    async def subscribe(self, filter, qos=0, **options):
        # The identifier belongs to the packet, the other options to the subscription.
        packet = {name: options.pop(name) for name in ["subscription_identifier"] if name in options}
        self.acks.clear()
        self.client.subscribe(gmqtt.Subscription(filter, qos=qos, **options), **packet)
        return await self._acknowledged()

    async def unsubscribe(self, filter):
        self.acks.clear()
        self.client.unsubscribe(filter)
        return await self._acknowledged()

    async def _acknowledged(self):
        """The codes of the only SUBACK or UNSUBACK that is awaited."""
        await self.wait(lambda: self.acks)
        return self.acks[0]

    async def received(self, count=1):
        await self.wait(lambda: len(self.messages) >= count)
        return self.messages[:count]

    async def payloads(self, count=1):
        return [bytes(payload) for _, payload, _, _ in await self.received(count)]

    async def nothing_else(self, count):
        """Passes a marker through the broker behind whatever it may have sent: exactly `count` came before."""
        topic = unique("marker")
        await self.subscribe(topic, 1)
        self.client.publish(topic, b"", qos=1)
        await self.wait(lambda: any(message[0] == topic for message in self.messages))
        before = [message for message in self.messages if message[0] != topic]
        assert len(before) == count, before

    async def close(self):
        await self.client.disconnect()

    async def cut(self):
        """Drops the network connection without a DISCONNECT."""
        self.client._connection._transport.abort()


class clients:
    """Connects the clients, and closes them when the check ends."""

    def __init__(self, *made):
        self.made = made

    async def __aenter__(self):
        for client in self.made:
            await client.connect()
        return self.made if len(self.made) > 1 else self.made[0]

    async def __aexit__(self, *_):
        for client in self.made:
            await client.close()


@check_each(version=VERSIONS)
async def delivers_at_the_lower_qos_of_publisher_and_subscriber(version):
    async with clients(Client(version), Client(version)) as (publisher, subscriber):
        for number, (published, granted) in enumerate(itertools.product(range(3), range(3))):
            topic = unique("qos")
            assert tuple(await subscriber.subscribe(topic, granted)) == (granted,)
            publisher.client.publish(topic, b"x", qos=published)
            got = (await subscriber.received(number + 1))[-1]
            assert (got[0], got[2]) == (topic, min(published, granted))


@check_each(version=VERSIONS)
async def retains_replaces_and_clears(version):
    topic = unique("retain")
    async with clients(Client(version), Client(version)) as (publisher, witness):
        # What the witness has received, the broker has also retained.
        await witness.subscribe(topic, 1)
        for count, payload in enumerate([b"first", b"second"], start=1):
            publisher.client.publish(topic, payload, qos=1, retain=True)
            await witness.received(count)
        async with clients(Client(version)) as late:
            await late.subscribe(topic, 1)
            assert await late.payloads() == [b"second"]
            assert late.messages[0][3]["retain"]
        publisher.client.publish(topic, b"", qos=1, retain=True)
        await witness.received(3)
        async with clients(Client(version)) as later:
            await later.subscribe(topic, 1)
            await later.nothing_else(0)


@check_each(version=VERSIONS)
async def sends_the_will_after_an_abnormal_close_only(version):
    topic = unique("will")
    will = gmqtt.Message(topic, b"gone", qos=1)
    async with clients(Client(version)) as witness:
        await witness.subscribe(topic, 1)
        polite = await Client(version, will=will).connect()
        await polite.close()
        await witness.nothing_else(0)
        mortal = await Client(version, will=will).connect()
        await mortal.cut()
        await witness.wait(lambda: any(message[0] == topic for message in witness.messages))


@check_each(version=VERSIONS)
async def queues_for_a_persistent_session(version):
    topic, client_id = unique("offline"), unique("sleeper")
    expiry = {"session_expiry_interval": 300} if version == MQTTv50 else {}
    first = await Client(version, client_id, clean=False, **expiry).connect()
    assert first.flags == 0
    await first.subscribe(topic, 2)
    await first.close()
    async with clients(Client(version), Client(version)) as (publisher, witness):
        await witness.subscribe(topic, 2)
        for number in range(4):
            publisher.client.publish(topic, b"%d" % number, qos=1)
        await witness.received(4)
    async with clients(Client(version, client_id, clean=False, **expiry)) as second:
        assert second.flags & 1, "the session was kept"
        assert await second.payloads(4) == [b"0", b"1", b"2", b"3"]
    async with clients(Client(version, client_id, clean=True)) as fresh:
        assert fresh.flags == 0


@check_each(version=VERSIONS)
async def shares_a_subscription(version):
    topic, group = unique("shared"), unique("group")
    async with clients(Client(version), Client(version), Client(version)) as (publisher, left, right):
        for member in (left, right):
            await member.subscribe(f"$share/{group}/{topic}", 1)
        sent = [b"%d" % number for number in range(40)]
        left.changed = right.changed  # one condition for what either receives
        for count, payload in enumerate(sent, start=1):
            publisher.client.publish(topic, payload, qos=1)
            if count % 10 == 0:  # gmqtt keeps to Receive Maximum by raising an error
                await left.wait(lambda count=count: len(left.messages) + len(right.messages) >= count)
        got = sorted(bytes(message[1]) for member in (left, right) for message in member.messages)
        assert got == sorted(sent) and left.messages and right.messages


@check_each(version=VERSIONS)
async def carries_four_mebibytes(version):
    topic, payload = unique("large"), bytes(range(256)) * (4 * 4096)
    async with clients(Client(version), Client(version)) as (publisher, subscriber):
        await subscriber.subscribe(topic, 1)
        publisher.client.publish(topic, payload, qos=1)
        assert await subscriber.payloads() == [payload]


@check_each(version=VERSIONS)
async def unsubscribed_topics_are_no_longer_delivered(version):
    topic = unique("unsubscribe")
    async with clients(Client(version)) as client:
        await client.subscribe(topic, 1)
        await client.unsubscribe(topic)
        client.client.publish(topic, b"unwanted", qos=1)
        await client.nothing_else(0)


@check
async def a_request_finds_its_response():
    service, replies = unique("service"), unique("replies")
    async with clients(Client(), Client()) as (requester, responder):
        await responder.subscribe(service, 1)
        await requester.subscribe(replies, 1)
        requester.client.publish(service, b"6*7", qos=1, response_topic=replies, correlation_data=b"\x00\xff id")
        asked = (await responder.received())[0][3]
        responder.client.publish(asked["response_topic"][0], b"42", qos=1,
                                 correlation_data=asked["correlation_data"][0])
        _, payload, _, properties = (await requester.received())[0]
        assert (bytes(payload), properties["correlation_data"][0]) == (b"42", b"\x00\xff id")


@check
async def forwards_the_properties_of_a_message_unaltered():
    topic = unique("properties")
    pairs = [("b", "1"), ("a", "2"), ("b", "1")]
    async with clients(Client(), Client()) as (publisher, subscriber):
        await subscriber.subscribe(topic, 1, subscription_identifier=77)
        publisher.client.publish(topic, b"{}", qos=1, user_property=pairs, content_type="application/json",
                                 message_expiry_interval=60)
        properties = (await subscriber.received())[0][3]
        assert properties["user_property"] == pairs
        assert properties["content_type"] == ["application/json"]
        assert properties["message_expiry_interval"][0] in (59, 60)
        assert properties["subscription_identifier"] == [77]


@check
async def an_empty_client_id_is_assigned_one():
    client = Client()
    client.client._client_id = ""
    async with clients(client):
        assert client.connack_properties["assigned_client_identifier"][0]


@check
async def no_local_and_retain_as_published_are_kept():
    topic = unique("options")
    async with clients(Client(), Client()) as (client, other):
        await client.subscribe(topic, 1, no_local=True, retain_as_published=True)
        client.client.publish(topic, b"mine", qos=1)
        other.client.publish(topic, b"theirs", qos=1, retain=True)
        assert await client.payloads() == [b"theirs"] and client.messages[0][3]["retain"]
        other.client.publish(topic, b"", qos=1, retain=True)


suite.main(lambda function: asyncio.run(function()))
