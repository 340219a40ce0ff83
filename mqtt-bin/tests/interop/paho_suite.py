"""paho-mqtt against a broker: MQTT 3.1, 3.1.1 and 5.0.

Usage: MQTT_HOST=127.0.0.1 MQTT_PORT=1883 python paho_suite.py
"""

import contextlib
import itertools
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

import suite
from suite import DEADLINE_SECONDS, HOST, PORT, check, check_each, unique


class Version(int):
    label = property({mqtt.MQTTv31: "3.1", mqtt.MQTTv311: "3.1.1", mqtt.MQTTv5: "5.0"}.__getitem__)


VERSIONS = [Version(v) for v in (mqtt.MQTTv31, mqtt.MQTTv311, mqtt.MQTTv5)]
FROM_311 = VERSIONS[1:]


def properties(packet_type, **values):
    result = Properties(packet_type)
    for name, value in values.items():
        for one in value if isinstance(value, list) and name == "UserProperty" else [value]:
            setattr(result, name, one)
    return result


class Client:
    """A paho client that remembers everything it is told, and waits for conditions with a deadline."""

    def __init__(self, version=mqtt.MQTTv5, client_id=None, clean=True, will=None, manual_ack=False,
                 keep_alive=60, **connect):
        self.changed = threading.Condition()
        self.messages, self.acks, self.connack, self.closed = [], {}, None, None
        client_id = unique("paho") if client_id is None else client_id
        options = {} if version == mqtt.MQTTv5 else {"clean_session": clean}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version,
                                  reconnect_on_failure=False, manual_ack=manual_ack, **options)
        self.client.on_connect = lambda _c, _u, flags, reason, props: self._set("connack", (flags, reason, props))
        # A DISCONNECT of the broker is told first, the end of its connection after it.
        self.client.on_disconnect = lambda _c, _u, _f, reason, _p: self._set("closed", self.closed or reason)
        self.client.on_message = lambda _c, _u, message: self._add(message)
        self.client.on_publish = lambda _c, _u, mid, reason, _p: self._ack(mid, [reason])
        self.client.on_subscribe = lambda _c, _u, mid, reasons, _p: self._ack(mid, reasons)
        self.client.on_unsubscribe = lambda _c, _u, mid, reasons, _p: self._ack(mid, reasons)
        if will:
            self.client.will_set(**will)
        if version == mqtt.MQTTv5:
            connect = {"clean_start": clean, "properties": properties(PacketTypes.CONNECT, **connect)}
        self.client.connect(HOST, PORT, keep_alive, **connect)
        self.client.loop_start()
        self.wait(lambda: self.connack or self.closed)

    def _set(self, name, value):
        with self.changed:
            setattr(self, name, value)
            self.changed.notify_all()

    def _add(self, message):
        with self.changed:
            self.messages.append(message)
            self.changed.notify_all()

    def _ack(self, mid, reasons):
        with self.changed:
            self.acks[mid] = reasons
            self.changed.notify_all()

    def wait(self, condition, seconds=DEADLINE_SECONDS):
        with self.changed:
            if not self.changed.wait_for(condition, seconds):
                raise TimeoutError(f"not within {seconds} s; received {[m.topic for m in self.messages]}")

    @property
    def session_present(self):
        return self.connack[0].session_present

    def subscribe(self, *arguments, **options):
        result, mid = self.client.subscribe(*arguments, **options)
        assert result == mqtt.MQTT_ERR_SUCCESS, result
        self.wait(lambda: mid in self.acks)
        return self.acks[mid]

    def unsubscribe(self, filter):
        _, mid = self.client.unsubscribe(filter)
        self.wait(lambda: mid in self.acks)
        return self.acks[mid]

    def publish(self, topic, payload=b"", qos=1, retain=False, **props):
        """Publishes and waits for the acknowledgement, which a QoS 0 message only has in name."""
        props = properties(PacketTypes.PUBLISH, **props) if props else None
        info = self.client.publish(topic, payload, qos, retain, props)
        self.wait(lambda: info.mid in self.acks)
        return self.acks[info.mid][0]

    def received(self, count=1):
        """The first `count` messages, once they are here."""
        self.wait(lambda: len(self.messages) >= count)
        return self.messages[:count]

    def payloads(self, count=1):
        return [message.payload for message in self.received(count)]

    def nothing_else(self, topic, count):
        """Passes a marker through the broker behind whatever it may have sent: exactly `count` came before."""
        marker = unique("marker").encode()
        self.subscribe(topic, 1)
        self.publish(topic, marker, qos=1)
        self.wait(lambda: any(message.payload == marker for message in self.messages))
        before = [message for message in self.messages if message.payload != marker]
        assert len(before) == count, [(message.topic, message.payload) for message in before]

    def disconnect(self, **options):
        if "properties" in options:
            options["properties"] = properties(PacketTypes.DISCONNECT, **options["properties"])
        self.client.disconnect(**options)
        self.wait(lambda: self.closed is not None)
        self.client.loop_stop()

    def cut(self):
        """Drops the network connection without a DISCONNECT."""
        self.client.socket().shutdown(2)
        self.wait(lambda: self.closed is not None)
        self.client.loop_stop()

    def close(self):
        if self.closed is None:
            self.disconnect()
        self.client.loop_stop()


@contextlib.contextmanager
def clients(*made):
    """Closes the clients when the check ends, however it ends."""
    try:
        yield made if len(made) > 1 else made[0]
    finally:
        for client in made:
            with contextlib.suppress(Exception):
                client.close()


@check_each(version=VERSIONS)
def connects_without_a_session(version):
    with clients(Client(version)) as client:
        assert client.connack[1] == 0 and not client.session_present


@check_each(version=VERSIONS)
def delivers_at_the_lower_qos_of_publisher_and_subscriber(version):
    with clients(Client(version), Client(version)) as (publisher, subscriber):
        for number, (published, granted) in enumerate(itertools.product(range(3), range(3))):
            topic = unique("qos")
            assert subscriber.subscribe(topic, granted)[0] == granted
            publisher.publish(topic, f"{published}{granted}".encode(), published)
            message = subscriber.received(number + 1)[-1]
            assert message.qos == min(published, granted), (published, granted, message.qos)
            assert message.topic == topic and not message.retain


@check_each(version=VERSIONS)
def keeps_the_order_of_one_publisher(version):
    topic = unique("order")
    with clients(Client(version), Client(version)) as (publisher, subscriber):
        subscriber.subscribe(topic, 2)
        for number in range(300):
            publisher.client.publish(topic, str(number), qos=2)
        assert subscriber.payloads(300) == [str(number).encode() for number in range(300)]


@check_each(version=VERSIONS)
def retains_replaces_and_clears(version):
    topic = unique("retain")
    with clients(Client(version)) as publisher:
        publisher.publish(topic, b"first", retain=True)
        publisher.publish(topic, b"second", retain=True)
        with clients(Client(version)) as late:
            late.subscribe(topic, 1)
            assert late.payloads() == [b"second"] and late.messages[0].retain
        publisher.publish(topic, b"", retain=True)
        with clients(Client(version)) as later:
            later.subscribe(topic, 1)
            later.nothing_else(unique("marker"), 0)


@check_each(version=VERSIONS)
def sends_the_will_after_an_abnormal_close(version):
    topic = unique("will")
    with clients(Client(version)) as witness:
        witness.subscribe(topic, 2)
        Client(version, will={"topic": topic, "payload": b"gone", "qos": 2}).cut()
        assert witness.payloads() == [b"gone"] and witness.messages[0].qos == 2


@check_each(version=VERSIONS)
def sends_no_will_after_a_normal_disconnect(version):
    topic = unique("will")
    with clients(Client(version)) as witness:
        witness.subscribe(topic, 1)
        Client(version, will={"topic": topic, "payload": b"gone", "qos": 1}).disconnect()
        witness.nothing_else(topic, 0)


@check_each(version=VERSIONS)
def retains_a_will(version):
    topic = unique("will")
    with clients(Client(version), Client(version)) as (witness, late):
        witness.subscribe(topic, 1)
        Client(version, will={"topic": topic, "payload": b"gone", "qos": 1, "retain": True}).cut()
        witness.received()
        late.subscribe(topic, 1)
        assert late.payloads() == [b"gone"] and late.messages[0].retain
        late.publish(topic, b"", retain=True)


def persistent(version, client_id, **options):
    """A client whose session outlives its connection."""
    if version == mqtt.MQTTv5:
        options["SessionExpiryInterval"] = 300
    return Client(version, client_id=client_id, clean=False, **options)


@check_each(version=VERSIONS)
def queues_for_a_persistent_session(version):
    # 3.1 allows 23 characters.
    topic, client_id = unique("offline"), unique("p")[-20:]
    first = persistent(version, client_id)
    assert not first.session_present
    first.subscribe(topic, 2)
    first.disconnect()
    with clients(Client(version)) as publisher:
        for number in range(3):
            for qos in (1, 2):
                publisher.publish(topic, b"%d" % number, qos)
    with clients(persistent(version, client_id)) as second:
        # MQTT 3.1 has no Session Present flag.
        assert second.session_present or version == mqtt.MQTTv31
        # paho hands a QoS 2 message out at its PUBREL, so only messages of one QoS keep their order.
        second.received(6)
        for qos in (1, 2):
            assert [m.payload for m in second.messages if m.qos == qos] == [b"0", b"1", b"2"]
    Client(version, client_id=client_id).close()
    with clients(persistent(version, client_id)) as fresh:
        assert not fresh.session_present
        fresh.nothing_else(unique("marker"), 0)
    Client(version, client_id=client_id).close()


@check_each(version=FROM_311)
def shares_a_subscription(version):
    topic, group = unique("shared"), unique("group")
    with clients(Client(version), Client(version), Client(version)) as (publisher, left, right):
        for member in (left, right):
            member.subscribe(f"$share/{group}/{topic}/#", 1)
        sent = [f"{number}".encode() for number in range(40)]
        for payload in sent:
            publisher.publish(f"{topic}/x", payload)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(left.messages) + len(right.messages) < len(sent):
            assert time.monotonic() < deadline, (len(left.messages), len(right.messages))
            left.wait(lambda: True)
            time.sleep(0.005)
        got = [message.payload for member in (left, right) for message in member.messages]
        assert sorted(got) == sorted(sent), "each message goes to one member, once"
        assert left.messages and right.messages, "both members get a share"


@check_each(version=VERSIONS)
def carries_four_mebibytes(version):
    topic, payload = unique("large"), bytes(range(256)) * (4 * 4096)
    with clients(Client(version), Client(version)) as (publisher, subscriber):
        subscriber.subscribe(topic, 2)
        publisher.publish(topic, payload, 2)
        assert subscriber.payloads() == [payload]


@check_each(version=VERSIONS)
def unsubscribed_topics_are_no_longer_delivered(version):
    topic = unique("unsubscribe")
    with clients(Client(version)) as client:
        client.subscribe(topic, 1)
        client.unsubscribe(topic)
        client.publish(topic, b"unwanted")
        client.nothing_else(unique("marker"), 0)


@check
def an_empty_client_id_needs_a_clean_session_in_311():
    with clients(Client(mqtt.MQTTv311, client_id="", clean=True)) as client:
        assert client.connack[1] == 0
    try:
        refused = Client(mqtt.MQTTv311, client_id="", clean=False)
    except ValueError:
        return  # this paho does not even send it
    assert refused.connack[1] != 0


@check
def an_empty_client_id_is_assigned_one():
    with clients(Client(client_id=""), Client(client_id="")) as both:
        assigned = {client.connack[2].AssignedClientIdentifier for client in both}
        assert len(assigned) == 2 and "" not in assigned


@check
def delays_a_will():
    topic = unique("will")
    with clients(Client()) as witness:
        witness.subscribe(topic, 1)
        delay = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=2)
        will = {"topic": topic, "payload": b"gone", "qos": 1, "properties": delay}
        mortal = Client(will=will, SessionExpiryInterval=60)
        start = time.monotonic()
        mortal.cut()
        witness.received()
        # The broker may see the close a little before this process does.
        assert time.monotonic() - start > 1.5, "the delay had not passed"


@check
def a_return_cancels_a_delayed_will():
    topic, client_id = unique("will"), unique("mortal")
    with clients(Client()) as witness:
        witness.subscribe(topic, 1)
        delay = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=1)
        will = {"topic": topic, "payload": b"gone", "qos": 1, "properties": delay}
        Client(client_id=client_id, will=will, SessionExpiryInterval=60).cut()
        with clients(Client(client_id=client_id, clean=False, SessionExpiryInterval=60)) as back:
            assert back.session_present
            # Nothing may happen for longer than the delay: here time itself is what is tested.
            time.sleep(1.6)
            witness.nothing_else(topic, 0)


@check
def disconnect_with_will_message_sends_the_will():
    topic = unique("will")
    with clients(Client()) as witness:
        witness.subscribe(topic, 1)
        mortal = Client(will={"topic": topic, "payload": b"gone", "qos": 1})
        mortal.disconnect(reasoncode=ReasonCode(PacketTypes.DISCONNECT, identifier=0x04))
        assert witness.payloads() == [b"gone"]


@check
def a_request_finds_its_response():
    service, replies = unique("service"), unique("replies")
    with clients(Client(), Client()) as (requester, responder):
        responder.subscribe(service, 1)
        requester.subscribe(replies, 1)
        requester.publish(service, b"6*7", ResponseTopic=replies, CorrelationData=b"\x00\xff id")
        asked = responder.received()[0].properties
        responder.publish(asked.ResponseTopic, b"42", CorrelationData=asked.CorrelationData)
        answer = requester.received()[0]
        assert (answer.payload, answer.properties.CorrelationData) == (b"42", b"\x00\xff id")


@check
def forwards_the_properties_of_a_message_unaltered():
    topic = unique("properties")
    pairs = [("b", "1"), ("a", "2"), ("b", "1"), ("", "")]
    with clients(Client(), Client()) as (publisher, subscriber):
        subscriber.subscribe(topic, 1)
        publisher.publish(topic, b"{}", UserProperty=pairs, ContentType="application/json",
                          PayloadFormatIndicator=1)
        got = subscriber.received()[0].properties
        assert got.UserProperty == pairs
        assert (got.ContentType, got.PayloadFormatIndicator) == ("application/json", 1)


@check
def counts_the_message_expiry_down():
    topic, client_id = unique("expiry"), unique("sleeper")
    sleeper = persistent(mqtt.MQTTv5, client_id)
    sleeper.subscribe(topic, 1)
    sleeper.disconnect()
    with clients(Client()) as publisher:
        publisher.publish(topic, b"short", MessageExpiryInterval=1)
        publisher.publish(topic, b"long", MessageExpiryInterval=100)
        time.sleep(2.1)  # the expiry of messages is counted in seconds
    with clients(persistent(mqtt.MQTTv5, client_id)) as back:
        message = back.received()[0]
        assert message.payload == b"long", "the other one had expired"
        assert 90 <= message.properties.MessageExpiryInterval <= 98, message.properties
    Client(client_id=client_id).close()


@check
def an_alias_stands_for_its_topic():
    topic = unique("alias")
    with clients(Client(), Client()) as (publisher, subscriber):
        assert publisher.connack[2].TopicAliasMaximum >= 1
        subscriber.subscribe(topic, 1)
        publisher.publish(topic, b"named", TopicAlias=1)
        publisher.publish("", b"aliased", TopicAlias=1)
        assert [(m.topic, m.payload) for m in subscriber.received(2)] == [(topic, b"named"), (topic, b"aliased")]


@check
def overlapping_subscriptions_give_one_copy_with_all_identifiers():
    root = unique("overlap")
    topic = f"{root}/x"
    with clients(Client()) as client:
        for number, (filter, qos) in enumerate([(topic, 0), (f"{root}/#", 2), (f"{root}/+", 1)], start=1):
            client.subscribe(filter, qos, properties=properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=number))
        client.publish(topic, b"once", 2)
        message = client.received()[0]
        identifiers = sorted(message.properties.SubscriptionIdentifier)
        assert identifiers == [1, 2, 3], identifiers
        assert message.qos == 2, message.qos
        client.nothing_else(unique("x") + "/marker", 1)


@check
def no_local_keeps_own_messages_away():
    topic = unique("local")
    with clients(Client(), Client()) as (client, other):
        client.subscribe(topic, options=SubscribeOptions(qos=1, noLocal=True))
        client.publish(topic, b"mine")
        other.publish(topic, b"theirs")
        assert client.payloads() == [b"theirs"]


@check
def retain_as_published_keeps_the_flag():
    topic = unique("rap")
    with clients(Client(), Client(), Client()) as (publisher, keeps, clears):
        keeps.subscribe(topic, options=SubscribeOptions(qos=1, retainAsPublished=True))
        clears.subscribe(topic, options=SubscribeOptions(qos=1, retainAsPublished=False))
        publisher.publish(topic, b"state", retain=True)
        assert keeps.received()[0].retain and not clears.received()[0].retain
        publisher.publish(topic, b"", retain=True)


@check
def retain_handling_decides_about_retained_messages():
    topic = unique("rh")
    with clients(Client(), Client()) as (publisher, client):
        publisher.publish(topic, b"state", retain=True)
        for handling, new_in_total in [(2, 0), (1, 0), (0, 1), (1, 1), (0, 2)]:
            client.subscribe(topic, options=SubscribeOptions(qos=1, retainHandling=handling))
            client.wait(lambda: len(client.messages) >= new_in_total)
        client.unsubscribe(topic)
        client.subscribe(topic, options=SubscribeOptions(qos=1, retainHandling=1))
        assert client.payloads(3) == [b"state"] * 3
        client.unsubscribe(topic)
        client.nothing_else(unique("marker"), 3)
        publisher.publish(topic, b"", retain=True)


@check
def acknowledgements_say_what_became_of_it():
    topic = unique("reasons")
    with clients(Client()) as client:
        for qos in (1, 2):
            assert client.publish(topic, b"nobody", qos).value in (0, 0x10)
        assert client.unsubscribe(topic)[0].value == 0x11
        client.subscribe(topic, 1)
        assert client.publish(topic, b"somebody").value == 0
        assert client.unsubscribe(topic)[0].value == 0


@check
def a_taken_over_client_is_told():
    client_id = unique("twin")
    with clients(Client(client_id=client_id), Client(client_id=client_id)) as (old, new):
        old.wait(lambda: old.closed is not None)
        assert old.closed.value == 0x8E, old.closed
        assert new.closed is None, new.closed


@check
def session_expiry_can_be_changed_at_disconnect():
    client_id = unique("expiry")
    persistent(mqtt.MQTTv5, client_id).disconnect(properties={"SessionExpiryInterval": 0})
    with clients(Client(client_id=client_id, clean=False)) as client:
        assert not client.session_present


@check
def no_more_than_receive_maximum_are_in_flight():
    topic = unique("window")
    with clients(Client(), Client(ReceiveMaximum=2, manual_ack=True)) as (publisher, slow):
        slow.subscribe(topic, 1)
        for number in range(5):
            publisher.publish(topic, b"%d" % number)
        for acknowledged in range(5):
            slow.received(min(acknowledged + 2, 5))
            # A QoS 0 message overtakes nothing that waits: behind it, what is in flight is known.
            assert len(slow.messages) <= acknowledged + 2
            slow.client.ack(slow.messages[acknowledged].mid, 1)
        assert slow.payloads(5) == [b"0", b"1", b"2", b"3", b"4"]


@check
def a_message_above_the_clients_maximum_packet_size_is_skipped():
    topic = unique("small")
    with clients(Client(), Client(MaximumPacketSize=200)) as (publisher, small):
        small.subscribe(topic, 1)
        publisher.publish(topic, bytes(1000))
        publisher.publish(topic, b"fits")
        assert small.payloads() == [b"fits"]


@check
def dollar_topics_are_not_matched_by_a_leading_wildcard():
    with clients(Client()) as client:
        client.subscribe("$SYS/#", 0)
        client.subscribe("+/#", 0)
        client.received()
        assert client.messages[0].topic.startswith("$SYS/")


suite.main()
