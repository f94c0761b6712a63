#!/usr/bin/python3
"""Chats with the page beside it, from a terminal: python3 chat.py http://localhost:8080 demo ek_… [room] [name]
The third word is a publishable key, which gets a visitor's token, or a client token of your own server. Lines that you
type are said; what others say, and the topic of the room, is printed. Needs paho-mqtt 1.6 (Debian: python3-paho-mqtt)."""
import json, os, sys, urllib.error, urllib.parse, urllib.request, uuid
import paho.mqtt.client as mqtt

if not 4 <= len(sys.argv) <= 6: sys.exit(__doc__)
base, app, credential, room, name = sys.argv[1:] + ["lobby", "Python"][len(sys.argv) - 4:]
url = urllib.parse.urlsplit(base)
if url.scheme not in ("http", "https") or not url.hostname:
    sys.exit("%s is not the address of a server, such as http://localhost:8080" % base)

def end(text):  # from paho's thread too
    print(text, file=sys.stderr)
    os._exit(1)

def token():
    if credential.startswith("eyJ"): return credential
    path, head = "/v1/apps/%s/tokens/anonymous" % app, {"Authorization": "Bearer " + credential}
    try:
        return json.load(urllib.request.urlopen(urllib.request.Request(base.rstrip("/") + path, b"", head), timeout=10))["token"]
    except urllib.error.HTTPError as e:
        end("no token: " + json.load(e)["detail"])
    except OSError as e:
        end("%s cannot be reached: %s" % (base, e))

def on_connect(client, _userdata, _flags, reason, _properties):
    if reason.value >= 0x80: end("refused: %s" % reason)
    client.subscribe([("rooms/%s/%s" % (room, of), mqtt.SubscribeOptions(qos=1, noLocal=True)) for of in ("chat", "topic")])

def on_subscribe(_client, _userdata, _mid, reasons, _properties):
    if any(reason.value >= 0x80 for reason in reasons): end("the app's rules do not let you into room " + room)
    print("You are in room %s as %s. Type and press Enter; Ctrl-D leaves." % (room, name), flush=True)

def on_message(_client, _userdata, message):
    try:
        value = json.loads(message.payload or "null")
        print("Topic: %s" % value if message.topic.endswith("/topic") else "%s: %s" % (value["from"], value["text"]), flush=True)
    except (ValueError, TypeError, KeyError):
        pass  # somebody sends something else here

def on_disconnect(client, _userdata, reason, _properties=None):
    print("The connection has ended (%s)." % reason, file=sys.stderr)
    client.username_pw_set(app, token())  # paho connects again by itself; the old token may be what has ended

client = mqtt.Client("py-" + uuid.uuid4().hex, protocol=mqtt.MQTTv5, transport="websockets")
client.ws_set_options(path="/mqtt/" + app)
client.username_pw_set(app, token())
if url.scheme == "https": client.tls_set()
client.on_connect, client.on_subscribe, client.on_message, client.on_disconnect = on_connect, on_subscribe, on_message, on_disconnect
client.connect(url.hostname, url.port or (443 if url.scheme == "https" else 80), keepalive=30)
client.loop_start()
for line in sys.stdin:
    said = {"id": uuid.uuid4().hex, "from": name, "text": line.rstrip("\n")}
    client.publish("rooms/%s/chat" % room, json.dumps(said), qos=1).wait_for_publish()
client.on_disconnect = None  # this time it is meant
client.disconnect()
client.loop_stop()
