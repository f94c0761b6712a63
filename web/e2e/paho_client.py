#!/usr/bin/python3
"""One Paho client, driven by lines as lines.mjs says."""
import json
import os
import sys
import threading
import urllib.parse

import paho.mqtt.client as mqtt

REFUSED = 0x80
write_lock = threading.Lock()


def say(line):
    with write_lock:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


class Client(mqtt.Client):
    """Paho, that keeps Reason Codes: 1.6 tells nobody those of PUBACK, nor that of a DISCONNECT without properties."""

    def _handle_pubackcomp(self, cmd):
        body = self._in_packet["packet"]
        code = body[2] if self._protocol == mqtt.MQTTv5 and len(body) > 2 else 0
        reasons[int.from_bytes(body[:2], "big")] = code
        return super()._handle_pubackcomp(cmd)

    def _handle_disconnect(self):
        body = self._in_packet["packet"]
        say({"event": "disconnect", "code": body[0] if body else 0})
        return super()._handle_disconnect()


client = None
reasons = {}  # of PUBACK and PUBCOMP, by Packet Identifier
waiting = {}  # command ids: "connect", or by Packet Identifier
lock = threading.Lock()
flooding = None


def value(reason):
    return getattr(reason, "value", reason)


def on_connect(_client, _userdata, flags, reason, _properties=None):
    with lock:
        command = waiting.pop("connect", None)
    if value(reason) == 0:
        say({"event": "connected", "session_present": bool(flags["session present"])})
    if command is None:
        return
    if value(reason) == 0:
        say({"id": command, "ok": {"session_present": bool(flags["session present"])}})
    else:
        say({"id": command, "error": str(reason), "code": value(reason)})


def on_disconnect(_client, _userdata, reason, _properties=None):
    with lock:
        command = waiting.pop("connect", None)
    if command is not None:
        say({"id": command, "error": "closed without CONNACK", "code": 0})
    say({"event": "close"})
    if flooding is not None:
        flooding.end()


def on_message(_client, _userdata, m):
    say({"event": "message", "topic": m.topic, "payload": m.payload.decode(errors="replace"), "qos": m.qos, "retain": bool(m.retain),
         "dup": bool(m.dup)})


def on_subscribe(_client, _userdata, mid, granted, _properties=None):
    answer(("sub", mid), {"codes": [value(g) for g in granted]})


def on_unsubscribe(_client, _userdata, mid, *_):
    answer(("unsub", mid), {})


def on_publish(_client, _userdata, mid):
    if flooding is not None:
        flooding.acknowledged(mid)
    else:
        answer(("pub", mid), {"codes": [reasons.pop(mid, 0)]})


early = {}  # answers that came before their question was noted


def answer(key, ok):
    with lock:
        command = waiting.pop(key, None)
        if command is None:
            early[key] = ok
            return
    say({"id": command, "ok": ok})


def expect(key, command):
    with lock:
        if key not in early:
            waiting[key] = command
            return
        ok = early.pop(key)
    say({"id": command, "ok": ok})


class Flood:
    """Publishes retained numbers, QoS 1, to topics in turn, many at a time, until the connection is gone."""

    def __init__(self, command, base, topics, window):
        self.command, self.base, self.topics = command, base, topics
        self.room = threading.Semaphore(window)
        self.sent, self.over = 0, False
        self.open, self.early = {}, set()  # by Packet Identifier: what waits for PUBACK, and PUBACKs that were faster than us
        self.lock = threading.Lock()  # guards those two; not held while Paho is called, which has locks of its own

    def run(self):
        while True:
            self.room.acquire()
            if self.over:
                break
            self.sent += 1
            what = ("%s/%d" % (self.base, self.sent % self.topics), self.sent)
            mid = client.publish(what[0], str(what[1]), qos=1, retain=True).mid
            with self.lock:
                if mid not in self.early:
                    self.open[mid] = what
                    continue
                self.early.remove(mid)
            self.tell(what)
        say({"id": self.command, "ok": {"sent": self.sent}})

    def acknowledged(self, mid):
        with self.lock:
            what = self.open.pop(mid, None)
            if what is None:
                self.early.add(mid)
                return
        self.tell(what)

    def tell(self, what):
        say({"event": "acked", "topic": what[0], "value": what[1]})
        self.room.release()

    def end(self):
        self.over = True
        self.room.release()


def connect(command, url, client_id, version, clean, keep_alive, username=None, password=None, will=None, ca=None, expiry=0, reconnect=0):
    """expiry is the session's, in seconds; reconnect: after so many milliseconds the client connects again by itself."""
    global client
    at = urllib.parse.urlsplit(url)
    protocol = {3: mqtt.MQTTv31, 4: mqtt.MQTTv311, 5: mqtt.MQTTv5}[version]
    start = {} if protocol == mqtt.MQTTv5 else {"clean_session": clean}
    client = Client(client_id, protocol=protocol, transport="websockets" if at.scheme.startswith("ws") else "tcp",
                    reconnect_on_failure=reconnect > 0, **start)
    if reconnect:
        client.reconnect_delay_set(reconnect / 1000, reconnect / 1000)
    if at.scheme.startswith("ws"):
        client.ws_set_options(path=at.path)
    if at.scheme in ("wss", "mqtts"):
        client.tls_set(ca)
    if username or password:
        client.username_pw_set(username, password)
    if will:
        client.will_set(will["topic"], will["payload"], will.get("qos", 0), will.get("retain", False))
    client.on_connect, client.on_disconnect, client.on_message = on_connect, on_disconnect, on_message
    client.on_subscribe, client.on_unsubscribe, client.on_publish = on_subscribe, on_unsubscribe, on_publish
    with lock:
        waiting["connect"] = command
    more = {"clean_start": clean} if protocol == mqtt.MQTTv5 else {}
    if protocol == mqtt.MQTTv5 and expiry:
        more["properties"] = mqtt.Properties(mqtt.PacketTypes.CONNECT)
        more["properties"].SessionExpiryInterval = expiry
    client.connect(at.hostname, at.port, keepalive=keep_alive, **more)
    client.loop_start()


def subscribe(command, filters, qos, retain_handling=0):
    if client._protocol == mqtt.MQTTv5:
        subs = [(f, mqtt.SubscribeOptions(qos=qos, retainHandling=retain_handling)) for f in filters]
    else:
        subs = [(f, qos) for f in filters]
    expect(("sub", client.subscribe(subs)[1]), command)


def unsubscribe(command, filters):
    expect(("unsub", client.unsubscribe(filters)[1]), command)


def publish(command, topic, payload, qos, retain):
    expect(("pub", client.publish(topic, payload, qos, retain).mid), command)


def flood(command, base, topics, window):
    global flooding
    client.max_inflight_messages_set(window)
    flooding = Flood(command, base, topics, window)
    threading.Thread(target=flooding.run, daemon=True).start()


def disconnect(command):
    client.disconnect()
    client.loop_stop()
    say({"id": command, "ok": {}})


def back(command):
    """Connects after disconnect, with the session that the client has kept."""
    with lock:
        waiting["connect"] = command
    client.reconnect()
    client.loop_start()


def hello(command):
    say({"id": command, "ok": {}})


commands = {"hello": hello, "connect": connect, "subscribe": subscribe, "unsubscribe": unsubscribe, "publish": publish, "flood": flood, "disconnect": disconnect,
            "back": back}
for line in sys.stdin:
    order = json.loads(line)
    number, name = order.pop("id"), order.pop("do")
    try:
        commands[name](number, **order)
    except Exception as e:  # whatever it is, the story is to know
        say({"id": number, "error": "%s: %s" % (type(e).__name__, e), "code": 0})
os._exit(0)  # the story is over, or was killed
