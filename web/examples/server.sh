#!/usr/bin/env bash
# What a server of yours does, by curl with a secret key: tell a room something, keep its topic, read that back, and see
# who is connected.
#   EMBERCAST_KEY=ek_… ./server.sh http://localhost:8080 demo [room]
set -euo pipefail

if [ $# -lt 2 ] || [ $# -gt 3 ] || [ -z "${EMBERCAST_KEY:-}" ]; then
  sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
app=$1/v1/apps/$2 room=${3:-lobby}

# The key comes by a file, for a command line can be read by every user of this machine.
api() {
  curl --silent --show-error --fail-with-body --config <(printf 'oauth2-bearer = "%s"\n' "$EMBERCAST_KEY") "$@" || {
    echo "
that did not work: $*" >&2
    exit 1
  }
  echo
}

echo 'Two messages in one transaction, one of them kept:'
api "$app/publish" --json '[
  {"topic": "rooms/'"$room"'/chat", "json": {"id": "'"$RANDOM$RANDOM$RANDOM"'", "from": "Server", "text": "Hello from curl"}, "qos": 1},
  {"topic": "rooms/'"$room"'/topic", "json": "Set by curl", "retain": true}
]'
echo 'What is kept in the room (payloads in base64):'
api --get "$app/retained" --data-urlencode "filter=rooms/$room/#"
echo 'Who is connected:'
api "$app/clients"
