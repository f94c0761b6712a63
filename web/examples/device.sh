#!/usr/bin/env bash
# A thermostat, by Mosquitto's clients: it keeps its state at devices/{name}/state, and takes commands from devices/{name}/set.
#   EMBERCAST_KEY=ek_… ./device.sh demo thermostat-1 [host [port]]
# The key is a device key of the app, without a client_id; its rules, or the app's, let it publish devices/{name}/# and
# subscribe to devices/{name}/set. While it runs, somebody may set it: publish 21.5 to devices/thermostat-1/set.
# Over TLS: EMBERCAST_CAFILE=/etc/ssl/certs/ca-certificates.crt ./device.sh demo thermostat-1 example.com 8883
set -euo pipefail

if [ $# -lt 2 ] || [ $# -gt 4 ] || [ -z "${EMBERCAST_KEY:-}" ]; then
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
app=$1 base=devices/$2 host=${3:-localhost} port=${4:-1883}
command -v mosquitto_pub >/dev/null || { echo 'mosquitto_pub is missing: install mosquitto-clients' >&2; exit 1; }

# Their configuration files, so that the key is not on a command line, where every user of this machine could read it.
XDG_CONFIG_HOME=$(mktemp -d)
export XDG_CONFIG_HOME
trap 'rm -rf "$XDG_CONFIG_HOME"; kill "${listener:-}" 2>/dev/null || true' EXIT
trap 'exit 0' INT TERM
{
  printf '%s\n' "-h $host" "-p $port" "-u $app" "-P $EMBERCAST_KEY" '-V 5' '-q 1'
  [ -z "${EMBERCAST_CAFILE:-}" ] || echo "--cafile $EMBERCAST_CAFILE"
} >"$XDG_CONFIG_HOME/mosquitto_pub"
cp "$XDG_CONFIG_HOME/mosquitto_pub" "$XDG_CONFIG_HOME/mosquitto_sub"

state() { mosquitto_pub -t "$base/state" -r -m "{\"on\":true,\"celsius\":$1}"; }

state 19
# When this connection breaks, the server says so for us: that is the will.
exec 3< <(exec mosquitto_sub -t "$base/set" -k 15 \
  --will-topic "$base/state" --will-payload '{"on":false}' --will-qos 1 --will-retain)
listener=$!
echo "$base keeps its state, and waits for numbers at $base/set. Ctrl-C ends it."
while read -r celsius <&3; do
  if [[ $celsius =~ ^-?[0-9]{1,3}(\.[0-9]+)?$ ]]; then
    state "$celsius"
    echo "set to $celsius"
  else
    echo 'not a number: ignored' >&2
  fi
done
echo 'the connection has ended' >&2
exit 1
