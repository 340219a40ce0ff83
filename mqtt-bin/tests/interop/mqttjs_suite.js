// mqtt.js against a broker: MQTT 3.1, 3.1.1 and 5.0.
//
// Usage: MQTT_HOST=127.0.0.1 MQTT_PORT=1883 node mqttjs_suite.js, with `mqtt` where Node finds it (NODE_PATH).
'use strict';

const assert = require('node:assert/strict');
const mqtt = require('mqtt');

const URL = `mqtt://${process.env.MQTT_HOST ?? '127.0.0.1'}:${process.env.MQTT_PORT ?? '1883'}`;
// Long enough for a busy machine with two cores; a check ends as soon as its condition holds.
const DEADLINE_MS = 20_000;
const VERSIONS = [3, 4, 5];
const LABEL = { 3: '3.1', 4: '3.1.1', 5: '5.0' };

let count = 0;
// 3.1 allows 23 characters of a ClientID.
const unique = (prefix) => `${prefix}-${process.pid}-${Date.now() % 1e6}-${++count}`;

/** A client that remembers everything it is told, and waits for conditions with a deadline. */
class Client {
  constructor(version = 5, options = {}) {
    this.messages = [];
    this.waiting = new Set();
    this.version = version;
    this.client = mqtt.connect(URL, {
      protocolVersion: version,
      protocolId: version === 3 ? 'MQIsdp' : 'MQTT',
      clientId: unique('js'),
      reconnectPeriod: 0,
      ...options,
    });
    for (const event of ['connect', 'message', 'close', 'error', 'disconnect']) {
      this.client.on(event, (...details) => {
        if (event === 'connect') this.connack = details[0];
        if (event === 'message') this.messages.push({ topic: details[0], payload: details[1], packet: details[2] });
        if (event === 'error') this.error = details[0];
        if (event === 'disconnect') this.told = details[0];
        if (event === 'close') this.closed = true;
        for (const look of this.waiting) look();
      });
    }
  }

  wait(condition, what = 'the condition') {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.waiting.delete(look);
        reject(new Error(`${what} did not hold; received ${this.messages.map((message) => message.topic)}`));
      }, DEADLINE_MS);
      const look = () => {
        if (!condition()) return;
        clearTimeout(timer);
        this.waiting.delete(look);
        resolve();
      };
      this.waiting.add(look);
      look();
    });
  }

  async connected() {
    await this.wait(() => this.connack || this.error || this.closed, 'an answer to CONNECT');
    if (!this.connack) throw this.error ?? new Error('closed without a CONNACK');
    return this;
  }

  subscribe(filter, options = { qos: 1 }) {
    return this.client.subscribeAsync(filter, options);
  }

  publish(topic, payload, options = { qos: 1 }) {
    return this.client.publishAsync(topic, payload, options);
  }

  async received(wanted = 1) {
    await this.wait(() => this.messages.length >= wanted, `${wanted} messages`);
    return this.messages.slice(0, wanted);
  }

  async payloads(wanted = 1) {
    return (await this.received(wanted)).map((message) => message.payload.toString());
  }

  /** Passes a marker through the broker behind whatever it may have sent: exactly `wanted` came before. */
  async nothingElse(wanted) {
    const topic = unique('marker');
    await this.subscribe(topic);
    await this.publish(topic, 'x');
    await this.wait(() => this.messages.some((message) => message.topic === topic), 'the marker');
    const before = this.messages.filter((message) => message.topic !== topic);
    assert.equal(before.length, wanted, JSON.stringify(before));
  }

  /** Drops the network connection without a DISCONNECT. */
  async cut() {
    this.client.stream.destroy();
    await this.wait(() => this.closed, 'the close');
  }

  async close(options = {}) {
    if (!this.closed) await this.client.endAsync(false, options);
  }
}

/** Connects the clients, runs `body` with them, and closes them however it ends. */
async function using(clients, body) {
  try {
    for (const client of clients) await client.connected();
    await body(...clients);
  } finally {
    for (const client of clients) await client.close().catch(() => {});
  }
}

const checks = [];
const check = (name, body) => checks.push([name, body]);
const checkEach = (versions, name, body) =>
  versions.forEach((version) => checks.push([`${name} [${LABEL[version]}]`, () => body(version)]));

checkEach(VERSIONS, 'delivers at the lower QoS of publisher and subscriber', (version) =>
  using([new Client(version), new Client(version)], async (publisher, subscriber) => {
    let wanted = 0;
    for (const published of [0, 1, 2]) {
      for (const granted of [0, 1, 2]) {
        const topic = unique('qos');
        const [grant] = await subscriber.subscribe(topic, { qos: granted });
        assert.equal(grant.qos, granted);
        await publisher.publish(topic, 'x', { qos: published });
        const got = (await subscriber.received(++wanted)).at(-1);
        assert.deepEqual([got.topic, got.packet.qos], [topic, Math.min(published, granted)]);
      }
    }
  }));

checkEach(VERSIONS, 'retains, replaces and clears', async (version) => {
  const topic = unique('retain');
  await using([new Client(version)], async (publisher) => {
    await publisher.publish(topic, 'first', { qos: 1, retain: true });
    await publisher.publish(topic, 'second', { qos: 1, retain: true });
    await using([new Client(version)], async (late) => {
      await late.subscribe(topic);
      assert.deepEqual(await late.payloads(), ['second']);
      assert.ok(late.messages[0].packet.retain);
    });
    await publisher.publish(topic, '', { qos: 1, retain: true });
    await using([new Client(version)], async (later) => {
      await later.subscribe(topic);
      await later.nothingElse(0);
    });
  });
});

checkEach(VERSIONS, 'sends the will after an abnormal close only', (version) => {
  const topic = unique('will');
  const will = { topic, payload: Buffer.from('gone'), qos: 1, retain: false };
  return using([new Client(version)], async (witness) => {
    await witness.subscribe(topic);
    await (await new Client(version, { will }).connected()).close();
    await witness.nothingElse(0);
    await (await new Client(version, { will }).connected()).cut();
    await witness.wait(() => witness.messages.some((message) => message.topic === topic), 'the will');
  });
});

checkEach(VERSIONS, 'queues for a persistent session', async (version) => {
  const [topic, clientId] = [unique('offline'), unique('s')];
  const properties = version === 5 ? { sessionExpiryInterval: 300 } : undefined;
  const kept = () => new Client(version, { clientId, clean: false, properties });
  await using([kept()], async (first) => {
    assert.ok(!first.connack.sessionPresent);
    await first.subscribe(topic, { qos: 2 });
  });
  await using([new Client(version)], async (publisher) => {
    for (let number = 0; number < 5; number++) await publisher.publish(topic, `${number}`, { qos: 1 });
  });
  await using([kept()], async (second) => {
    // MQTT 3.1 has no Session Present flag.
    assert.ok(second.connack.sessionPresent || version === 3);
    assert.deepEqual(await second.payloads(5), ['0', '1', '2', '3', '4']);
  });
  await using([new Client(version, { clientId, clean: true })], async (fresh) => {
    assert.ok(!fresh.connack.sessionPresent);
    await fresh.nothingElse(0);
  });
});

checkEach([4, 5], 'shares a subscription', (version) => {
  const [topic, group] = [unique('shared'), unique('group')];
  return using([new Client(version), new Client(version), new Client(version)], async (publisher, left, right) => {
    for (const member of [left, right]) {
      await member.subscribe(`$share/${group}/${topic}`);
      member.client.on('message', () => left.waiting.forEach((look) => look()));
    }
    const sent = Array.from({ length: 40 }, (_, number) => `${number}`);
    for (const payload of sent) await publisher.publish(topic, payload);
    await left.wait(() => left.messages.length + right.messages.length >= sent.length, 'all messages');
    const got = [...left.messages, ...right.messages].map((message) => message.payload.toString());
    assert.deepEqual(got.sort(), [...sent].sort());
    assert.ok(left.messages.length && right.messages.length, 'both members get a share');
  });
});

checkEach(VERSIONS, 'carries four mebibytes', (version) => {
  const [topic, payload] = [unique('large'), Buffer.alloc(4 * 1024 * 1024, 'mqtt')];
  return using([new Client(version), new Client(version)], async (publisher, subscriber) => {
    await subscriber.subscribe(topic, { qos: 2 });
    await publisher.publish(topic, payload, { qos: 2 });
    assert.ok((await subscriber.received())[0].payload.equals(payload));
  });
});

check('a request finds its response', () => {
  const [service, responseTopic, correlationData] = [unique('service'), unique('replies'), Buffer.from([0, 255, 7])];
  return using([new Client(), new Client()], async (requester, responder) => {
    await responder.subscribe(service);
    await requester.subscribe(responseTopic);
    await requester.publish(service, '6*7', { qos: 1, properties: { responseTopic, correlationData } });
    const asked = (await responder.received())[0].packet.properties;
    await responder.publish(asked.responseTopic, '42', {
      qos: 1,
      properties: { correlationData: asked.correlationData },
    });
    const answer = (await requester.received())[0];
    assert.equal(answer.payload.toString(), '42');
    assert.deepEqual(answer.packet.properties.correlationData, correlationData);
  });
});

check('forwards the properties of a message unaltered', () => {
  const topic = unique('properties');
  return using([new Client(), new Client()], async (publisher, subscriber) => {
    await subscriber.subscribe(topic, { qos: 1, properties: { subscriptionIdentifier: 268435455 } });
    await publisher.publish(topic, '{}', {
      qos: 1,
      properties: {
        userProperties: { b: ['1', '2'], a: '3' },
        contentType: 'application/json',
        payloadFormatIndicator: true,
        messageExpiryInterval: 60,
      },
    });
    const { properties } = (await subscriber.received())[0].packet;
    assert.deepEqual({ ...properties.userProperties }, { b: ['1', '2'], a: '3' });
    assert.equal(properties.contentType, 'application/json');
    assert.equal(properties.payloadFormatIndicator, true);
    assert.ok([59, 60].includes(properties.messageExpiryInterval));
    assert.equal(properties.subscriptionIdentifier, 268435455);
  });
});

check('topic aliases work in both directions', () => {
  const topics = [unique('alias'), unique('alias'), unique('alias')];
  const subscriber = new Client(5, { properties: { topicAliasMaximum: 2 } });
  const publisher = new Client(5, { autoAssignTopicAlias: true });
  return using([publisher, subscriber], async () => {
    await subscriber.subscribe(topics);
    const sent = [0, 1, 2, 0, 0, 1, 2, 2, 1, 0].map((index) => topics[index]);
    for (const topic of sent) await publisher.publish(topic, topic);
    const got = await subscriber.received(sent.length);
    assert.deepEqual(got.map((message) => message.payload.toString()), sent);
    assert.deepEqual(got.map((message) => message.topic), sent);
  });
});

check('no local, retain as published and retain handling are kept', () => {
  const [topic, early] = [unique('options'), unique('early')];
  return using([new Client(), new Client()], async (client, other) => {
    await other.publish(early, 'state', { qos: 1, retain: true });
    await client.subscribe(early, { qos: 1, rh: 2 });
    await client.subscribe(topic, { qos: 1, nl: true, rap: true });
    await client.publish(topic, 'mine');
    await other.publish(topic, 'theirs', { qos: 1, retain: true });
    assert.deepEqual(await client.payloads(), ['theirs']);
    assert.ok(client.messages[0].packet.retain);
    for (const used of [topic, early]) await other.publish(used, '', { qos: 1, retain: true });
  });
});

check('an empty client id is assigned one', () =>
  using([new Client(5, { clientId: '' })], (client) => assert.ok(client.connack.properties.assignedClientIdentifier)));

check('a taken over client is told', () => {
  const clientId = unique('twin');
  return using([new Client(5, { clientId })], (old) =>
    using([new Client(5, { clientId })], async () => {
      await old.wait(() => old.told, 'a DISCONNECT');
      assert.equal(old.told.reasonCode, 0x8e);
    }));
});

check('a delayed will is cancelled by the return of its client', () => {
  const [topic, clientId] = [unique('will'), unique('mortal')];
  const properties = { sessionExpiryInterval: 60 };
  const will = { topic, payload: Buffer.from('gone'), qos: 1, retain: false, properties: { willDelayInterval: 600 } };
  return using([new Client()], async (witness) => {
    await witness.subscribe(topic);
    await (await new Client(5, { clientId, will, properties }).connected()).cut();
    await using([new Client(5, { clientId, clean: false, properties })], async (back) => {
      assert.ok(back.connack.sessionPresent);
      await witness.nothingElse(0);
    });
  });
});

(async () => {
  let [passed, failed] = [0, 0];
  for (const [name, body] of checks) {
    try {
      await body();
      passed += 1;
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}\n${error.stack}`);
    }
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed || !passed ? 1 : 0);
})();
